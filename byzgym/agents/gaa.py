"""GAA, the Gradient Aggregation Agent: it learns online whom to trust."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

import torch
from torch import Tensor
from torch.nn import functional as F

from byzgym.agents.base import Agent, name_of
from byzgym.agents.registry import attach_inner, make_inner, registry
from byzgym.aggregation import Decision, ServerView, combine, move_credit
from byzgym.aggregation.view import differentiated
from byzgym.ambient import shielded
from byzgym.files import write_whole
from byzgym.numerics.distances import row_norms
from byzgym.simulation import Simulation
from byzgym.validation import blamed, check_choice, check_int, check_real

START_FLOOR = 1e-3
"""What every worker gets beside the credits of `start`, so that GAA can learn to credit it."""


@registry.built_in("gaa")
class GAA(Agent):
    """GAA of Pan et al. 2020, "Justinian's GAAvernor: Robust Distributed Learning with Gradient Aggregation
    Agent" (https://www.usenix.org/conference/usenixsecurity20/presentation/pan). It learns online which
    submissions make the QV loss fall.

    Per coordinate, a network reads two numbers for every submission (the preprocessing of Andrychowicz et
    al. 2016), the parameter, log(1 + QV loss) and the last credits. All d coordinates share it. Its n outputs
    are averaged over the coordinates; their softmax is the credits.

    The agent learns in the run that it governs. After a window of T rounds it replays
    theta_{t+1} = theta_t - lr sum_i credit_i V_i with the submissions as constants, and takes one step of
    Adam against the gradient of the sum of the window's QV losses. The replay leaves out the server's
    momentum. Every environment has a policy of its own. docs/gaa.md has results and limits.

    Output i belongs to row i of the submissions. Where each round has another cohort (``cohort_size``), row i
    is now this worker and now that one, so GAA learns little.

    With ``start``, another policy decides first, in every round. GAA adds its outputs to the logarithms of
    that policy's credits before the softmax. Its last layer is zero at first, so it begins with those credits
    instead of uniform ones, and what it learns corrects them. This is not in the paper.

    Args:
        window: T, the number of rounds between two updates of the policy, at least 1. If some environments
            restart, the windows of the others end early. Every round of a window takes memory (n + 1) d, and
            (3 n + 2) d with hidden layers.
        learning_rate: Learning rate of Adam, above 0.
        hidden: Widths of ReLU layers in the network, each at least 1. None by default: one linear layer.
        seed: Seed of the policy's initial weights, at least 0.
        start: A policy with credits, as `agents.make_from` takes it ("krum", "trust"). Its credits are
            divided by their sum, and every worker gets 0.001 more. None starts from uniform credits.
        after_rise: Where the gradient of the QV loss is taken after a round over which this loss has risen:
            "start", the parameters with which the round began, or "end", those with which it ended. The paper
            always takes the end. But the gradient at the end of an honest step that is too long points
            against this step, so "end" turns GAA against honest workers; docs/gaa.md shows such runs.

    Raises:
        ValueError: If a value is out of its range, or ``start`` has no credits or is a reference.

    Example:
        Four of six workers flip the signs of their gradients. GAA learns to ignore them.

        >>> from byzgym.simulation import Simulation
        >>> simulation = Simulation.make(task="synthetic", num_workers=6, num_byzantine=4, attack="sign_flip")
        >>> agent = GAA()
        >>> for _ in range(100):
        ...     simulation.apply(agent.aggregate(simulation.view))
        >>> bool(agent.credits(simulation.view)[~simulation.byzantine].sum() > 0.9)
        True
    """

    needs: ClassVar[frozenset[str]] = frozenset({"memory", "qv"})

    def __init__(
        self,
        window: int = 1,
        learning_rate: float = 0.02,
        hidden: Sequence[int] = (),
        seed: int = 0,
        start: Any = None,
        after_rise: str = "start",
    ) -> None:
        self.window = check_int("window", window, low=1)
        self.learning_rate = check_real("learning_rate", learning_rate, above=0)
        if not isinstance(hidden, Sequence):
            raise ValueError(f"hidden must be a list of widths, got {hidden!r}")
        self.hidden = tuple(check_int("hidden (each)", width, low=1) for width in hidden)
        self._seed = check_int("seed", seed, low=0)
        self.after_rise = check_choice("after_rise", after_rise, ("start", "end"))
        self.start = None if start is None else make_inner("start", start)
        if self.start is not None and not self.start.linear:
            raise _no_start(self.start)
        self._loaded: list[Tensor] | None = None
        self.reset()

    @property
    def inner(self) -> tuple[Agent, ...]:
        """See `Agent.inner`: the start."""
        return () if self.start is None else (self.start,)

    def reset(self, envs: Tensor | None = None) -> None:
        """Start again from a fresh (or the loaded) policy."""
        if self.start is not None:
            self.start.reset(envs)
        if envs is None or not self._policy or bool(envs.all()):
            self._form: Any = None  # what stays the same from view to view
            self._policy: list[Tensor] = []  # weight [E, out, in], bias [E, out, 1], weight, ...
            self._rounds: list[_Round] = []  # of the present window
            self._outcomes: list[tuple[Tensor, list[Tensor]]] = []  # of these rounds, see `_feedback`
            self._began: Tensor | None = None  # bool [E], environments that restart in the next round
        else:
            # The next view tells the others the QV loss after their last round. They learn from it first.
            self._began = envs.clone() if self._began is None else self._began | envs

    @shielded  # it learns even if the caller needs no gradients
    @torch.no_grad()
    def decide(self, view: ServerView) -> Decision:
        """See `Policy.decide`. The first call in a round also learns from the rounds before."""
        if self._form != _form(view):
            self._begin(view)
        seen = view.round, view.theta, view.gradients.to(self._credits.dtype)
        known = self._rounds and self._began is None and all(map(torch.equal, seen, self._rounds[-1][:3]))
        if not known:
            self._advance(view)
        credits = self._credits.to(view.gradients.dtype, copy=True)
        return Decision(combine(credits, view.gradients), credits)

    def save(self, path: str | Path) -> None:
        """Write the policies, one per environment.

        Raises:
            RuntimeError: If there is no policy yet, because no round has been played.
        """
        if not self._policy:
            raise RuntimeError("there is no policy to save before the first round")
        policy = [parameter.cpu() for parameter in self._policy]
        with write_whole(Path(path)) as partial:
            torch.save({"hidden": list(self.hidden), "policy": policy}, partial)

    def load(self, path: str | Path) -> Self:
        """Start from the policies in a file, now and after every reset.

        Raises:
            ValueError: If `save` has not written the file, or its network has other hidden layers.
        """
        try:
            saved = torch.load(path, weights_only=True)
            hidden, policy = tuple(saved["hidden"]), saved["policy"]
            _check_policy(policy, hidden)
        except OSError:
            raise
        except Exception as error:  # torch raises many kinds for a foreign file
            raise ValueError(f"{path} is not a policy that GAA has saved: {error!r}") from None
        if hidden != self.hidden:
            raise ValueError(f"hidden must be {hidden} to load {path}, got {self.hidden}")
        self._loaded = policy
        self.reset()
        return self

    def _attach(self, simulation: Simulation) -> None:
        if self.start is not None:
            attach_inner("start", self.start, simulation)
        super()._attach(simulation)

    def _begin(self, view: ServerView) -> None:
        self.reset()
        dtype = torch.promote_types(view.theta.dtype, torch.float32)  # half precision is too coarse to learn
        self._credits = view.previous_credits.to(dtype, copy=True)  # [E, n], the last ones given
        self._policy = self._initial_policy()
        self._moments = [(torch.zeros_like(p), torch.zeros_like(p)) for p in self._policy]
        self._steps = torch.zeros_like(self._credits[:, :1, None])  # of Adam, in every environment
        self._form = _form(view)

    def _advance(self, view: ServerView) -> None:
        """Learn if the window is over, and decide on the present round."""
        dtype = self._credits.dtype
        loss = self._feedback(view) if self._rounds else view.qv_value.to(dtype)
        if self._rounds and (self._began is not None or len(self._rounds) == self.window):
            self._learn()
            self._rounds, self._outcomes = [], []
        if self._began is not None:
            self._restart(self._began, view)
        if not self._rounds:
            self._start = loss, self._credits
        theta = view.theta.detach().clone()
        rows = view.gradients.detach().to(dtype, copy=True)
        features = _features(rows, theta.to(dtype), pooled=not self.hidden)
        rate, rejected = view.learning_rate.to(dtype, copy=True), view.rejected.clone()
        prior = None if self.start is None else _prior(self.start, view).to(dtype)
        self._rounds.append(_Round(view.round.clone(), theta, rows, features, rate, rejected, prior))
        self._credits = _decide(self._policy, self._rounds[-1], loss, self._credits)

    def _feedback(self, view: ServerView) -> Tensor:
        """The QV loss [E] after the last round, kept with its derivatives [E, n] by the window's credits.

        Both losses are on the present samples, which may be new.
        """
        assert view.qv_loss is not None  # the first round of a view without it fails
        loss, gradient = differentiated(view.qv_loss, view.theta)
        if self.after_rise == "start":
            before, earlier = differentiated(view.qv_loss, self._rounds[-1].theta)
            gradient = torch.where((loss > before)[:, None], earlier, gradient)
        loss, gradient = loss.to(self._credits.dtype), gradient.to(self._credits.dtype)
        slopes = []
        for played in self._rounds:
            step = -gradient * played.learning_rate[:, None]
            slope = torch.bmm(step[:, None], played.rows.transpose(1, 2))[:, 0]
            slopes.append(slope.masked_fill(~loss.isfinite()[:, None], 0))
        self._outcomes.append((loss, slopes))
        return loss

    def _learn(self) -> None:
        """One step of Adam on the sum of the window's QV losses.

        The window's graph exists only here: an agent without a graph can be copied and pickled.
        """
        with torch.enable_grad():
            policy = [parameter.detach().requires_grad_() for parameter in self._policy]
            loss, last = self._start
            total, given = torch.zeros_like(loss), list[Tensor]()
            for played, (outcome, slopes) in zip(self._rounds, self._outcomes, strict=True):
                last = _decide(policy, played, loss, last)
                given.append(last)
                change = torch.stack([(c * s).sum(1) for c, s in zip(given, slopes, strict=True)]).sum(0)
                total = total + change
                loss = outcome + (change - change.detach())  # the outcome, as a function of the credits
            gradients = torch.autograd.grad(total.sum(), policy)
        self._steps += 1
        for p, gradient, (m, v) in zip(self._policy, gradients, self._moments, strict=True):
            g = gradient.nan_to_num(0.0).clamp_(-1, 1)
            m.lerp_(g, 0.1)
            v.mul_(0.999).addcmul_(g, g, value=0.001)
            root = (v / (1 - 0.999**self._steps)).sqrt_().add_(1e-8)
            p -= self.learning_rate * (m / (1 - 0.9**self._steps)) / root

    def _restart(self, envs: Tensor, view: ServerView) -> None:
        for p, start, (m, v) in zip(self._policy, self._initial_policy(), self._moments, strict=True):
            p[envs], m[envs], v[envs] = start[envs], 0, 0
        self._steps[envs] = 0
        self._credits = torch.where(envs[:, None], view.previous_credits.to(self._credits), self._credits)
        self._began = None

    def _initial_policy(self) -> list[Tensor]:
        num_envs, num_workers = self._credits.shape
        if self._loaded is not None:
            policy = self._loaded
            if policy[-1].shape[1] != num_workers or len(policy[-1]) not in (1, num_envs):
                raise ValueError(
                    f"the loaded policy is for {policy[-1].shape[1]} submissions in {len(policy[-1])} "
                    f"environments, got {num_workers} in {num_envs}"
                )
        else:
            generator = torch.Generator().manual_seed(self._seed)
            policy = []
            for fan_in, fan_out in pairwise([3 * num_workers + 2, *self.hidden, num_workers]):
                for columns in (fan_in, 1):  # weight and bias, as in torch.nn.Linear
                    start = torch.empty(1, fan_out, columns, device="cpu")
                    policy.append(start.uniform_(-(fan_in**-0.5), fan_in**-0.5, generator=generator))
            if self.start is not None:
                policy[-2:] = map(torch.zeros_like, policy[-2:])
        return [p.to(self._credits).repeat(num_envs // len(p), 1, 1) for p in policy]


class _Round(NamedTuple):
    """What tells a round from others, and what learning needs of it: copies without a graph."""

    number: Tensor  # [E]
    theta: Tensor  # [E, d]
    rows: Tensor  # [E, n, d], the submissions
    features: Tensor  # [E, 2 n + 1, d], or their means [E, 2 n + 1, 1]
    learning_rate: Tensor  # [E]
    rejected: Tensor  # [E, n]
    prior: Tensor | None  # [E, n], the logarithms of what `start` gave


def _check_policy(policy: Any, hidden: tuple[int, ...]) -> None:
    """Raise an error unless ``policy`` is a list of tensors as in `GAA._policy`, all for one E."""
    num_envs, num_workers, _ = policy[-1].shape
    widths = pairwise([3 * num_workers + 2, *hidden, num_workers])
    wanted = [(num_envs, fan_out, columns) for fan_in, fan_out in widths for columns in (fan_in, 1)]
    if num_envs < 1 or [parameter.shape for parameter in policy] != wanted:
        raise ValueError(f"its tensors must have the shapes {wanted}")
    if not all(parameter.is_floating_point() and parameter.isfinite().all() for parameter in policy):
        raise ValueError("its tensors must hold finite numbers")


def _form(view: ServerView) -> Any:
    return [(tensor.shape, tensor.dtype, tensor.device) for tensor in (view.gradients, view.theta)]


def _decide(policy: list[Tensor], played: _Round, loss: Tensor, last: Tensor) -> Tensor:
    """Credits [E, n] from a round's features, its QV loss [E] and the credits [E, n] of the round before."""
    shared = torch.cat([loss.nan_to_num(nan=1e3).log1p()[:, None], last], 1)[..., None]
    x = torch.cat([played.features, shared.expand(-1, -1, played.features.shape[2])], 1)
    for layer in range(0, len(policy), 2):
        x = torch.baddbmm(policy[layer + 1], policy[layer], F.relu(x) if layer else x)
    logits = x.mean(2) if played.prior is None else x.mean(2) + played.prior
    return move_credit(torch.softmax(logits, 1), played.rejected)


def _prior(start: Agent, view: ServerView) -> Tensor:
    """The logarithms [E, n] of the credits with which a policy wants to start, and of a little more for all.

    A submission gets less of the little, the longer it is than the policy's update and the QV gradient: what
    is far too long must not come in by this door.
    """
    with blamed("start"):
        decision = start.decide(view)
    credits = decision.credits
    if credits is None or credits.isnan().any():
        raise _no_start(start)
    usual = row_norms(torch.stack([decision.update, view.qv_gradient], 1)).amax(1, keepdim=True)
    floor = START_FLOOR * (usual / row_norms(view.gradients).clamp(min=1e-30)).clamp(1e-30, 1)
    credits = credits.to(floor)  # double
    return (credits / credits.sum(1, keepdim=True).clamp(min=1e-30) + floor).log().float()


def _no_start(start: Agent) -> ValueError:
    return ValueError(f"start must be a policy with credits, got {name_of(start)}, whose decisions have none")


def _features(rows: Tensor, theta: Tensor, pooled: bool) -> Tensor:
    """Two numbers for each entry g of rows [E, n, d], and the clamped parameters: [E, 2 n + 1, d].

    The two are those of Andrychowicz et al. 2016, "Learning to learn by gradient descent by gradient descent"
    (https://arxiv.org/abs/1606.04474), appendix A, with p = 10: (log|g| / p, sign g) where |g| >= e^-p, and
    (-1, e^p g) elsewhere. Both are clamps. If ``pooled``, the result is the mean over d, [E, 2 n + 1, 1].
    """
    logarithms = rows.abs().clamp_(min=torch.e**-10)
    logarithms = _mean_log(logarithms) if pooled else logarithms.log_()
    others = (rows * torch.e**10).clamp_(-1, 1), theta[:, None].clamp(-1e3, 1e3)
    means = (values.mean(2, keepdim=True) if pooled else values for values in others)
    return torch.cat([logarithms.div_(10), *means], 1)


def _mean_log(values: Tensor) -> Tensor:
    """Mean logarithms [E, n, 1] of values [E, n, d] of at least e^-10, from one logarithm for eight of them.

    One for each would make a round of GAA 15 % slower (benchmarks/gaa.py, d = 118k). A product of eight such
    values does not vanish. Rows in which one overflows are taken entry by entry.
    """
    whole = values.shape[2] // 8 * 8
    products = values[..., :whole].unflatten(2, (8, whole // 8)).prod(2)
    total = products.log_().sum(2, keepdim=True) + values[..., whole:].log().sum(2, keepdim=True)
    large = ~total[..., 0].isfinite()
    if large.any():
        total[large] = values[large].log().sum(1, keepdim=True)
    return total / values.shape[2]
