"""GAA, the Gradient Aggregation Agent of "Justinian's GAAvernor" (Pan et al., USENIX Security 2020)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional as F

from byzgym.agents.base import Agent
from byzgym.agents.registry import registry
from byzgym.aggregation import ServerView, accepted
from byzgym.ambient import without_autocast
from byzgym.validation import check_int, check_real


@registry.built_in("gaa")
class GAA(Agent):
    """Learns the workers' credits online, in the run that it governs.

    A network shared by all d coordinates reads, per coordinate, two numbers for every submission (the
    preprocessing of Andrychowicz et al. 2016), the parameter, log(1 + QV loss) and the last credits; its n
    outputs are averaged over the coordinates and pass through a softmax. The paper's slides show this
    structure; sizes follow the public reconstruction, whose network is one linear layer. The reconstruction
    reads the loss without the logarithm, and then one that explodes in the first rounds saturates the softmax
    on arbitrary workers.

    "The whole system is differentiable" (slides): the agent replays
    theta_{t+1} = theta_t - lr sum_i credit_i V_i over a window of T rounds, the submissions being constants,
    and descends the sum of the window's QV losses by back-propagation through the replayed parameters.
    Every environment has a policy of its own; none is told who is Byzantine.

    The server's momentum is not part of the replay: with momentum the gradient is that of the step without.

    Args:
        window: T, rounds between two updates of the policy, at least 1. The public reconstruction has 5; the
            default 1 recovers more often from the first rounds, when credits are still uniform and a
            Byzantine majority drives the parameters away (see docs/gaa.md for the figures). Where one of
            several environments begins anew, the windows of the others end early.
        learning_rate: Of Adam, for the policy, above 0. The public reconstruction has 0.01.
        hidden: Widths, at least 1, of ReLU layers in the per-coordinate network; none by default. With
            hidden layers every round takes memory d * (3 n + 2).
        seed: Of the policy's initial weights, at least 0.

    Raises:
        ValueError: If a value is out of its range.
    """

    def __init__(
        self,
        window: int = 1,
        learning_rate: float = 0.02,
        hidden: Sequence[int] = (),
        seed: int = 0,
    ) -> None:
        self.window = check_int("window", window, low=1)
        self.learning_rate = check_real("learning_rate", learning_rate, above=0)
        if not isinstance(hidden, Sequence):
            raise ValueError(f"hidden must be a list of widths, got {hidden!r}")
        self.hidden = tuple(check_int("hidden (each)", width, low=1) for width in hidden)
        self._seed = check_int("seed", seed, low=0)
        self._loaded: list[Tensor] | None = None
        self._began: Tensor | None = None
        self._policy: list[Tensor] = []  # weight [E, out, in], bias [E, out, 1], weight, ...
        self._window: _Window | None = None
        self._view: ServerView | None = None
        self._last_credits = self._rounds = torch.zeros(0)
        self._rows: list[Tensor] = []
        self._shape = torch.Size()
        self._dtype = torch.float32

    def reset(self, envs: Tensor | None = None) -> None:
        """Start again from a fresh (or the loaded) policy."""
        if envs is None or not self._policy or bool(envs.all()):
            self._policy = []
            self._window = self._view = self._began = None
            return
        # The next call of `credits` first lets the others learn from their last round.
        self._began = envs if self._began is None else self._began | envs
        self._view = None

    @without_autocast
    @torch.inference_mode(False)  # it learns from a simulation's view, whatever mode it is asked in
    def credits(self, view: ServerView) -> Tensor:
        """See `Agent.credits`. The first call in a round also learns from the rounds before."""
        if view is self._view:
            return self._last_credits.to(view.gradients.dtype)
        self._begin(view)
        with torch.enable_grad():
            began, self._began = self._began, None
            theta, loss = self._replay(view, began)
            if self._window is not None and (began is not None or self._window.steps == self.window):
                self._learn()
                self._window, theta, loss = None, theta.detach(), loss.detach()
            if began is not None:
                self._restart(began, view)
            if self._window is None:
                self._window = _Window(torch.zeros_like(theta), self._last_credits)
            window = self._window
            rows = self._rows[window.steps].copy_(view.gradients.detach())
            credits = accepted(self._decide(rows, theta, loss, window.credits), view.rejected)
            window.update = window.update - view.learning_rate[:, None] * _mix(credits, rows)
        window.credits = credits
        window.steps += 1
        self._view, self._last_credits = view, credits.detach()
        return self._last_credits.to(view.gradients.dtype)

    def save(self, path: str | Path) -> None:
        """Write the policies (one per environment).

        Raises:
            RuntimeError: If there is no policy yet, because no round has been played.
        """
        if not self._policy:
            raise RuntimeError("there is no policy to save before the first round")
        policy = [parameter.detach().cpu() for parameter in self._policy]
        torch.save({"hidden": list(self.hidden), "policy": policy}, path)

    def load(self, path: str | Path) -> Self:
        """Start from the policies in a file, now and after every reset.

        Raises:
            ValueError: If `save` has not written the file, or its network has other hidden layers.
        """
        try:
            saved = torch.load(path, weights_only=True)
        except OSError:
            raise
        except Exception as error:  # whatever reading a foreign file raises
            raise ValueError(f"{path} is not a policy that GAA has saved: {error}") from None
        if not isinstance(saved, dict) or set(saved) != {"hidden", "policy"}:
            raise ValueError(f"{path} is not a policy that GAA has saved")
        if tuple(saved["hidden"]) != self.hidden:
            raise ValueError(f"hidden must be {tuple(saved['hidden'])} to load {path}, got {self.hidden}")
        self._loaded = saved["policy"]
        self.reset()
        return self

    def _begin(self, view: ServerView) -> None:
        """Make what is needed in the first round, and drop what belongs to episodes that have ended."""
        if self._policy and self._shape == view.gradients.shape:
            began = (view.round == 0) & (self._rounds > 0)
            if bool(began.any()):
                self.reset(began)
        self._rounds = view.round.clone()  # a reset writes into the server's own
        if self._policy and self._shape == view.gradients.shape:
            if self._window is None:
                self._last_credits = view.previous_credits.to(self._dtype)
            return
        self._shape, self._device = view.gradients.shape, view.theta.device
        self._dtype = torch.promote_types(view.theta.dtype, torch.float32)  # half precision cannot learn
        self._policy = [parameter.requires_grad_() for parameter in self._initial_policy()]
        self._adam = _Adam(self._policy, self.learning_rate)
        self._began = None
        # One tensor a round, not one for all: autograd tracks writes tensor by tensor.
        self._rows = [torch.empty_like(view.gradients, dtype=self._dtype) for _ in range(self.window)]
        self._window, self._last_credits = None, view.previous_credits.to(self._dtype)

    def _restart(self, envs: Tensor, view: ServerView) -> None:
        with torch.no_grad():
            for parameter, start in zip(self._policy, self._initial_policy(), strict=True):
                parameter[envs] = start[envs]
        self._adam.reset(envs)
        start = view.previous_credits.to(self._dtype)
        self._last_credits = torch.where(envs[:, None], start, self._last_credits)

    def _replay(self, view: ServerView, began: Tensor | None) -> tuple[Tensor, Tensor]:
        """The present parameters [E, d], as a function of the window's credits, and their QV loss [E]."""
        window = self._window
        if window is None:
            return view.theta.to(self._dtype), view.qv_value.to(self._dtype)
        theta = view.theta + (window.update - window.update.detach())
        loss = view.qv_loss(theta.to(view.theta.dtype)).to(self._dtype)
        counts = loss.isfinite() if began is None else loss.isfinite() & ~began
        window.total = window.total + torch.where(counts, loss, 0).sum()
        return theta, loss

    def _decide(self, rows: Tensor, theta: Tensor, loss: Tensor, last: Tensor) -> Tensor:
        """Credits [E, n], from the paper's state: submissions, parameters, QV loss (and the last credits)."""
        own = [_log_and_sign(rows, pooled=not self.hidden)]  # [E, 2 n, d or 1]
        parameters = theta.detach()[:, None].clamp(-1e3, 1e3)
        own.append(parameters if self.hidden else parameters.mean(2, keepdim=True))
        # Losses and credits are the same for all coordinates.
        width = own[0].shape[2]
        shared = torch.cat([loss.nan_to_num(nan=1e3).log1p()[:, None], last], 1)[..., None]
        x = torch.cat([*own, shared.expand(-1, -1, width)], 1)  # [E, 3 n + 2, d or 1]
        for layer in range(0, len(self._policy), 2):
            x = torch.baddbmm(self._policy[layer + 1], self._policy[layer], F.relu(x) if layer else x)
        return torch.softmax(x.mean(2), 1)

    def _learn(self) -> None:
        """One step of Adam on the window's QV losses, whose gradients are clamped to [-1, 1]."""
        if self._window is None or not self._window.total.requires_grad:
            return
        gradients = torch.autograd.grad(self._window.total, self._policy)
        self._adam.step([gradient.nan_to_num(0.0).clamp_(-1, 1) for gradient in gradients])

    def _initial_policy(self) -> list[Tensor]:
        num_envs, num_workers, _ = self._shape
        widths = [3 * num_workers + 2, *self.hidden, num_workers]
        if self._loaded is not None:
            if self._loaded[-1].shape[1] != num_workers or len(self._loaded[-1]) not in (1, num_envs):
                raise ValueError(
                    f"the loaded policy is for {self._loaded[-1].shape[1]} submissions in "
                    f"{len(self._loaded[-1])} environments, got {num_workers} in {num_envs}"
                )
            loaded = [parameter.to(self._device, self._dtype) for parameter in self._loaded]
            return [parameter.repeat(num_envs // len(parameter), 1, 1) for parameter in loaded]
        generator = torch.Generator().manual_seed(self._seed)
        policy = []
        for fan_in, fan_out in pairwise(widths):
            # The default initialisation of torch.nn.Linear, the same in every environment.
            bound = fan_in**-0.5
            for columns in (fan_in, 1):
                start = torch.empty(fan_out, columns).uniform_(-bound, bound, generator=generator)
                policy.append(start.to(self._device, self._dtype).repeat(num_envs, 1, 1))
        return policy


class _Adam:
    """Adam with a step count of its own for every environment, so that one can begin anew."""

    def __init__(self, parameters: list[Tensor], learning_rate: float) -> None:
        self._parameters = parameters
        self._learning_rate = learning_rate
        self._moments = [(torch.zeros_like(p), torch.zeros_like(p)) for p in parameters]
        self._count = torch.zeros_like(parameters[0][:, :1, :1])

    @torch.no_grad()
    def step(self, gradients: list[Tensor]) -> None:
        self._count += 1
        for p, g, (m, v) in zip(self._parameters, gradients, self._moments, strict=True):
            m.lerp_(g, 0.1)
            v.mul_(0.999).addcmul_(g, g, value=0.001)
            root = (v / (1 - 0.999**self._count)).sqrt_().add_(1e-8)
            p -= self._learning_rate * (m / (1 - 0.9**self._count)) / root

    def reset(self, envs: Tensor) -> None:
        self._count[envs] = 0
        for m, v in self._moments:
            m[envs] = 0
            v[envs] = 0


class _Window:
    """What the rounds since the last update of the policy have left, with its graph.

    Args:
        update: Sum of the steps taken since the window began, zero at first, shape [E, d].
        credits: Of the last round, shape [E, n].
    """

    def __init__(self, update: Tensor, credits: Tensor) -> None:
        self.update = update
        self.credits = credits
        self.total = update.new_zeros(())  # sum of the QV losses
        self.steps = 0


def _log_and_sign(rows: Tensor, pooled: bool) -> Tensor:
    """Two numbers for each entry g of rows [E, n, d]: shape [E, 2 n, d], or their means [E, 2 n, 1].

    Andrychowicz et al., "Learning to learn by gradient descent by gradient descent" (2016), appendix A, with
    p = 10: (log|g| / p, sign g) where |g| >= e^-p, and (-1, e^p g) elsewhere; both are clamps.
    """
    if not pooled:
        logarithm = rows.abs().log_().clamp_(min=-10.0)
        return torch.cat([logarithm / 10, (rows * torch.e**10).clamp_(-1, 1)], 1)
    magnitudes = rows.abs().clamp_(min=torch.e**-10)
    first = _mean_log(magnitudes) / 10
    # The same memory serves for the second number.
    second = torch.mul(rows, torch.e**10, out=magnitudes).clamp_(-1, 1).mean(2, keepdim=True)
    return torch.cat([first, second], 1)


def _mean_log(values: Tensor) -> Tensor:
    """Mean logarithms [E, n, 1] of values [E, n, d] of at least e^-10, from one logarithm for eight of them.

    A product of eight such numbers does not vanish; rows in which one overflows are taken entry by entry.
    """
    whole = values.shape[2] // 8 * 8
    products = values[..., :whole].unflatten(2, (8, whole // 8)).prod(2)
    total = products.log_().sum(2, keepdim=True) + values[..., whole:].log().sum(2, keepdim=True)
    if not math.isfinite(total.sum()):
        large = ~total[..., 0].isfinite()
        total[large] = values[large].log().sum(1, keepdim=True)
    return total / values.shape[2]


def _mix(credits: Tensor, rows: Tensor) -> Tensor:
    return torch.bmm(credits[:, None], rows)[:, 0]
