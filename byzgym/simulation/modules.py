"""Per-worker gradients of any `nn.Module`, through `torch.func`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from byzgym.ambient import seeded
from byzgym.simulation.gradients import LONG_ROW, cross_entropy, place

VALUES_AT_ONCE = 1 << 18
"""Numbers in the inputs evaluated at once; layers may make a hundred numbers of one."""


class ModuleEngine:
    """Any `nn.Module`, through vmap(grad) where that works.

    Modules with dropout draw their masks from the environments' generators, in training only; they are
    taken environment by environment, since one vmap would draw for all from one stream. So are large ones,
    for which this is faster and needs no copy of the parameters for every worker. What vmap cannot do, such
    as nn.GRU, is computed worker by worker. `try_on` finds out which way to go.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = module
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
        self.draws = any(
            isinstance(layer, nn.modules.dropout._DropoutNd) and layer.p > 0 for layer in module.modules()
        )
        self._workers_apart = False
        self._environments_apart = self.num_parameters >= LONG_ROW

    def try_on(self, x: Tensor, y: Tensor) -> None:
        """Find the fastest way that works, on inputs x [B, ...] and labels y [B]; see `engine_for`."""
        buffers = {name: buffer.clone() for name, buffer in self._module.named_buffers()}
        parameters = [parameter.detach().flatten() for parameter in self._module.parameters()]
        theta = torch.cat(parameters).expand(2, -1)
        generators = [torch.Generator(x.device) for _ in theta]
        batches = x.expand(2, 2, *x.shape), y.expand(2, 2, *y.shape)
        out = theta.new_empty(2, 2, self.num_parameters)
        ways = [(self.draws, False), (True, False), (True, True)]
        while ways:
            self.draws, self._workers_apart = ways.pop(0)
            try:
                for envs in (slice(1), slice(2)):  # one environment does not take the way of many
                    x_envs, y_envs = (part[envs] for part in batches)
                    self.gradients(theta[envs], x_envs, y_envs, generators[envs], out[envs])
                break
            except RuntimeError:
                if not ways:
                    raise
        state = torch.get_rng_state()
        try:
            self.loss_and_gradient(theta, batches[0][0], batches[1][0])
        except RuntimeError:
            self._environments_apart = True
            self.loss_and_gradient(theta, batches[0][0], batches[1][0])
        if not torch.equal(torch.get_rng_state(), state):
            torch.set_rng_state(state)
            raise ValueError("model must not draw random numbers in evaluation mode, but it does")
        for name, buffer in self._module.named_buffers():
            if not torch.equal(buffer, buffers[name]):
                raise ValueError(
                    f"model must not change its buffers, which workers and environments share, but {name!r} "
                    "changes (a running average? track_running_stats=False does without)"
                )

    def samples_at_once(self, num_envs: int, sample_size: int) -> int:
        """See `GradientEngine.samples_at_once`."""
        return max(1, VALUES_AT_ONCE // ((1 if self._environments_apart else num_envs) * sample_size))

    def logits(self, theta: Tensor, x: Tensor) -> Tensor:
        """See `GradientEngine.logits`."""
        self._module.train(False)
        with _differentiable_attention():
            if self._environments_apart:
                return torch.stack([self._apply(*pair) for pair in zip(theta, x, strict=True)])
            return torch.func.vmap(self._apply)(theta, x)

    def loss(self, theta: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """See `GradientEngine.loss`."""
        return cross_entropy(self.logits(theta, x).transpose(1, 2), y)

    def loss_and_gradient(self, theta: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """See `GradientEngine.loss_and_gradient`."""
        with torch.enable_grad():
            theta = theta.detach().requires_grad_()
            loss = self.loss(theta, x, y)
            (gradient,) = torch.autograd.grad(loss.sum(), theta)
        return loss.detach(), gradient

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
        gradient = torch.func.grad(self._sample_loss)
        num_envs, num_workers = y.shape[:2]
        if num_envs > 1 and not self.draws and self.num_parameters < LONG_ROW:
            # All at once, but not a vmap in a vmap, which takes one environment's nn.PReLU for another's.
            own = theta.repeat_interleave(num_workers, 0)
            each = torch.func.vmap(gradient)(own, x.flatten(0, 1), y.flatten(0, 1))
            place(each.unflatten(0, (num_envs, num_workers)), out, 0, rows)
            return
        randomness = "different" if self.draws else "error"
        per_worker = torch.func.vmap(gradient, in_dims=(None, 0, 0), randomness=randomness)
        if self._workers_apart:
            per_worker = self._one_by_one
        for e, generator in enumerate(generators):
            with seeded(generator) if self.draws else nullcontext():
                gradients = per_worker(theta[e], x[e], y[e])
            place(gradients[None], out[e : e + 1], 0, None if rows is None else rows[e : e + 1])

    def _apply(self, theta: Tensor, x: Tensor) -> Tensor:
        pieces = theta.split(self._sizes)
        values = [piece.view(shape) for piece, shape in zip(pieces, self._shapes, strict=True)]
        parameters = {name: values[number] for name, number in self._places}
        # A copy, because the module may write into what it is given, and these are the task's own samples.
        return torch.func.functional_call(self._module, parameters, (x.clone(),), tie_weights=False)

    def _one_by_one(self, theta: Tensor, x: Tensor, y: Tensor) -> Tensor:
        rows: list[Tensor] = []
        for inputs, labels in zip(x, y, strict=True):
            with torch.enable_grad():
                point = theta.detach().requires_grad_()
                rows += torch.autograd.grad(self._sample_loss(point, inputs, labels), point)
        return torch.stack(rows)

    def _sample_loss(self, theta: Tensor, x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(self._apply(theta, x), y)


@contextmanager
def _differentiable_attention() -> Iterator[None]:
    """Keep torch from its shortcut through attention layers in evaluation mode, which has no derivative."""
    shortcut = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(shortcut)
