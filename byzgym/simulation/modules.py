"""Per-worker gradients of any `nn.Module`, through `torch.func`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.conv import _ConvNd

from byzgym.ambient import global_state, seeded, shielded
from byzgym.simulation.dense import cross_entropy, place
from byzgym.tasks.models import unchanged_attributes

LARGE_MODEL = 1 << 14
"""Parameters from which environments are computed one after the other."""
CONVOLVED_BATCH = 8
"""Samples in a batch from which vmap is the slower way for convolutions on a CPU."""
VALUES_AT_ONCE = 1 << 18
"""Numbers in the inputs evaluated at once; layers may make a hundred numbers of one."""


class ModuleEngine:
    """Any `nn.Module`, through vmap(grad) over the workers of all environments where that works.

    `try_on` finds out what works. Large models and those that draw random numbers in training (dropout), for
    which every environment has its own generator, go environment by environment. What vmap cannot do, such as
    nn.GRU, goes worker by worker; so do convolutions of batches on a CPU, where vmap takes up to twice the
    time and many times the memory (benchmarks/convolutions.py). Attributes that a call changes (a counter, a
    kept activation) are put back.

    The choice follows from the model and the batch, not from a measurement: the ways differ in the last bits,
    and runs must not depend on how busy the machine was. ``one_by_one`` overrides it.
    """

    def __init__(self, module: nn.Module, one_by_one: bool | None = None) -> None:
        self._module, self._chosen = module, one_by_one
        numbers = {parameter: number for number, parameter in enumerate(module.parameters())}
        # Each place of a shared parameter by itself, and a layer used twice once: torch's own tying of
        # weights would leave its wrappers behind in such a layer, which could then no longer be copied.
        self._places = [
            (f"{owner}.{name}" if owner else name, numbers[parameter])
            for owner, part in module.named_modules()
            for name, parameter in part.named_parameters(recurse=False, remove_duplicate=False)
        ]
        self._shapes = [parameter.shape for parameter in module.parameters()]
        self._sizes = [parameter.numel() for parameter in module.parameters()]
        self.num_parameters = sum(self._sizes)
        self._attends = any(isinstance(layer, nn.MultiheadAttention) for layer in module.modules())
        self._convolves = any(isinstance(layer, _ConvNd) for layer in module.modules())
        self.draws = self._workers_apart = False
        self._environments_apart = self.num_parameters >= LARGE_MODEL

    def try_on(self, x: Tensor, y: Tensor) -> None:
        """Find the fastest way that works, on inputs x [B, ...] and labels y [B]; see `engine_for`."""
        hooked = [name for name, part in self._module.named_parameters() if part._backward_hooks]
        if hooked:
            raise ValueError(f"model must not have hooks on parameters, which have no effect, got {hooked}")
        tensors = {name: tensor.clone() for name, tensor in self._shared_tensors()}
        parameters = [parameter.detach().flatten() for parameter in self._module.parameters()]
        theta = torch.cat(parameters).expand(2, -1)
        x, y = x.expand(2, 2, *x.shape), y.expand(2, 2, *y.shape)
        for self.draws, self._workers_apart in ((False, False), (True, False), (True, True)):
            if self._can_compute(theta, x, y):
                break
        with seeded(torch.Generator()) as drawn:
            try:
                self.loss_and_gradient(theta, x[0], y[0])
            except RuntimeError:
                self._environments_apart = True
                self.loss_and_gradient(theta, x[0], y[0])
            if drawn():
                raise ValueError("model must not draw random numbers in evaluation mode, but it does")
        for name, tensor in self._shared_tensors():
            if not torch.equal(tensor, tensors[name]):
                raise ValueError(
                    "model must not change its buffers, or other tensors in place, which all workers share, "
                    f"but {name!r} changes (a running average? track_running_stats=False does without)"
                )

    def samples_at_once(self, num_envs: int, sample_size: int) -> int:
        """See `GradientEngine.samples_at_once`."""
        return max(1, VALUES_AT_ONCE // ((1 if self._environments_apart else num_envs) * sample_size))

    def logits(self, theta: Tensor, x: Tensor) -> Tensor:
        """See `GradientEngine.logits`."""
        self._module.train(False)
        with _differentiable_attention() if self._attends else nullcontext():
            if self._environments_apart:
                return torch.stack([self._apply(*pair) for pair in zip(theta, x, strict=True)])
            return torch.func.vmap(self._apply)(theta, x)

    def loss(self, theta: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """See `GradientEngine.loss`."""
        return cross_entropy(self.logits(theta, x).transpose(1, 2), y)

    @shielded
    def loss_and_gradient(self, theta: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """See `GradientEngine.loss_and_gradient`."""
        with torch.enable_grad():
            theta = theta.detach().requires_grad_()
            loss = self.loss(theta, x, y)
            (gradient,) = torch.autograd.grad(loss.sum(), theta)
        return loss.detach(), gradient

    def sample_gradients(self, theta: Tensor, x: Tensor, weights: Tensor) -> Tensor:
        """See `GradientEngine.sample_gradients`."""
        self._module.train(False)
        x = x.repeat(1, weights.shape[1] // x.shape[1], *[1] * (x.dim() - 2))
        each = torch.func.vmap(torch.func.grad(self._weighted_loss), in_dims=(None, 0, 0))
        if self._workers_apart:
            each = partial(_one_by_one, self._weighted_loss)
        with _differentiable_attention() if self._attends else nullcontext():
            return torch.stack([each(*of_env) for of_env in zip(theta, x, weights, strict=True)]).detach()

    @torch.no_grad()
    def gradients(
        self,
        theta: Tensor,
        x: Tensor,
        y: Tensor,
        generators: Sequence[torch.Generator],
        out: Tensor,
        rows: Tensor | None = None,
    ) -> None:
        """See `GradientEngine.gradients`."""
        self._module.train()
        if self.one_by_one(y.shape[2], theta.device):
            self._write_one_by_one(theta, x, y, generators, out, rows)
            return
        gradient = torch.func.grad(self._sample_loss)
        num_envs, num_workers = y.shape[:2]
        if num_envs > 1 and not self.draws and self.num_parameters < LARGE_MODEL:
            # All at once, but not a vmap in a vmap, which takes one environment's nn.PReLU for another's.
            own = theta.repeat_interleave(num_workers, 0)
            each = torch.func.vmap(gradient)(own, x.flatten(0, 1), y.flatten(0, 1))
            place(each.unflatten(0, (num_envs, num_workers)), out, 0, rows)
            return
        randomness = "different" if self.draws else "error"
        per_worker = torch.func.vmap(gradient, in_dims=(None, 0, 0), randomness=randomness)
        for e, generator in enumerate(generators):
            with seeded(generator) if self.draws else nullcontext():
                gradients = per_worker(theta[e], x[e], y[e])
            place(gradients[None], out[e : e + 1], 0, None if rows is None else rows[e : e + 1])

    def one_by_one(self, batch_size: int, device: torch.device) -> bool:
        """See `GradientEngine.one_by_one`."""
        if self._chosen is not None:
            return self._chosen or self._workers_apart
        slow = self._convolves and batch_size >= CONVOLVED_BATCH and device.type == "cpu"
        return self._workers_apart or slow

    def _write_one_by_one(
        self,
        theta: Tensor,
        x: Tensor,
        y: Tensor,
        generators: Sequence[torch.Generator],
        out: Tensor,
        rows: Tensor | None,
    ) -> None:
        """See `gradients`. A worker has a seed of its own, so that it draws the same whoever is left out."""
        for e, generator in enumerate(generators):
            values = [piece.detach().requires_grad_() for piece in self._pieces(theta[e])]
            seeds = torch.zeros(0)
            if self.draws:
                seeds = torch.randint(2**62, (out.shape[1],), generator=generator, device=generator.device)
            for number, target in enumerate(range(y.shape[1]) if rows is None else rows[e].tolist()):
                own = generator
                if self.draws:
                    own = torch.Generator(generator.device).manual_seed(int(seeds[target]))
                with seeded(own) if self.draws else nullcontext():
                    gradients = self._gradient(values, x[e, number], y[e, number])
                torch.cat([gradient.flatten() for gradient in gradients], out=out[e, target])

    @torch.enable_grad()
    def _gradient(self, values: Sequence[Tensor], x: Tensor, y: Tensor) -> Sequence[Tensor]:
        """The gradient of the mean loss of a batch with respect to each parameter."""
        loss = F.cross_entropy(self._call(values, x), y)
        return torch.autograd.grad(loss, values, materialize_grads=True)

    def _can_compute(self, theta: Tensor, x: Tensor, y: Tensor) -> bool:
        """Whether the present way works, for theta [2, d], x [2, 2, B, ...] and y [2, 2, B]."""
        generators = [torch.Generator(x.device) for _ in theta]
        out = theta.new_empty(2, 2, self.num_parameters)
        try:
            with seeded(torch.Generator()) as drawn:
                for envs in (slice(1), slice(2)):  # one environment does not take the way of many
                    self.gradients(theta[envs], x[envs], y[envs], generators[envs], out[envs])
                return not drawn()  # from NumPy or Python: vmap itself refuses torch
        except RuntimeError:
            if self._workers_apart:
                raise
            return False

    def _shared_tensors(self) -> list[tuple[str, Tensor]]:
        """Buffers, and tensors that are plain attributes."""
        return [
            (f"{owner}.{name}" if owner else name, value)
            for owner, part in self._module.named_modules()
            for name, value in (part._buffers | vars(part)).items()
            if isinstance(value, Tensor)
        ]

    def _apply(self, theta: Tensor, x: Tensor) -> Tensor:
        return self._call(self._pieces(theta), x)

    def _pieces(self, theta: Tensor) -> list[Tensor]:
        """The parameters [d] in their shapes."""
        return [
            piece.view(shape) for piece, shape in zip(theta.split(self._sizes), self._shapes, strict=True)
        ]

    def _call(self, values: Sequence[Tensor], x: Tensor) -> Tensor:
        parameters = {name: values[number] for name, number in self._places}
        # A copy, because the module may write into what it is given, and these are the task's own samples.
        with unchanged_attributes(self._module):
            return torch.func.functional_call(self._module, parameters, (x.clone(),), tie_weights=False)

    def _weighted_loss(self, theta: Tensor, x: Tensor, weights: Tensor) -> Tensor:
        return -(weights * F.log_softmax(self._apply(theta, x[None])[0], dim=0)).sum()

    def _sample_loss(self, theta: Tensor, x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(self._apply(theta, x), y)


def _one_by_one(loss: Callable[..., Tensor], theta: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Gradients [h, d] of a loss of theta [d] for each of h inputs x [h, ...] and labels y [h, ...]."""
    rows: list[Tensor] = []
    for inputs, labels in zip(x, y, strict=True):
        with torch.enable_grad():
            point = theta.detach().requires_grad_()
            rows += torch.autograd.grad(loss(point, inputs, labels), point)
    return torch.stack(rows)


@contextmanager
def _differentiable_attention() -> Iterator[None]:
    """Keep torch from its shortcut through attention layers in evaluation mode, which has no derivative."""
    with global_state:
        shortcut = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            yield
        finally:
            torch.backends.mha.set_fastpath_enabled(shortcut)
