"""The attack `adaptive`: whoever knows the server's policy searches for the attack that harms it most.

This stands above attacks and agents, because the search lets policies play in simulations of its own.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from byzgym import agents, aggregation, attacks
from byzgym.aggregation.registry import normalised
from byzgym.ambient import shielded
from byzgym.attacks import AttackContext, Mixture
from byzgym.attacks.mixture import SIZE, point_of
from byzgym.simulation import Simulation, metrics
from byzgym.simulation.config import RunConfig, config_from
from byzgym.validation import check_int, shown, within

KNOWN = (
    point_of(("own", -1)),  # sign_flip
    point_of(labels=0.1),  # label_flip
    point_of(("mean", -0.5)),  # ipm
    point_of(("mean", -10)),  # omniscient
    point_of(("mean", 1), ("std", -1.5)),  # alie
    point_of(("own", 10)),  # scaled
    point_of(("mimic", 1)),
    point_of(("own_noise", 10)),
    point_of(labels=0.25),  # each label is the next one
    point_of(labels=0.5),  # one label for all
)
"""Points like attacks of the literature, which are tried first."""
GENERATION = 20
"""Points that are played side by side."""
RANDOM_SHARE = 0.4
"""Part of the evaluations that goes to random points; then come children of the best ones."""
FINAL_SHARE = 0.2
"""Part of the evaluations in which the finalists are played again, with other seeds."""
PARENTS = 5
FINALISTS = 10
RUNS = 3
"""Runs, with different seeds, in an evaluation."""
DIGITS = 4
"""Of the numbers in a point, so that it can be written down."""
SAMPLES = 2000
"""Training samples, at most, on which the attacker measures accuracy."""


@dataclass(frozen=True, eq=False)
class SearchResult:
    """The evaluations of a search, in their order. The finalists are among them several times."""

    points: Tensor  # [evaluations, 31], of the cube of `Mixture`
    damages: Tensor  # [evaluations], from 0 to 1: the victim's error rate in the end

    def best(self, evaluations: int | None = None) -> list[float]:
        """The point that the first ``evaluations`` (all where None) show to be the most harmful.

        Of the points that were played most often, it has the largest mean damage.
        """
        last = len(self.damages)
        if evaluations is not None:
            last = check_int("evaluations", evaluations, low=1, high=last)
        points, of = self.points[:last].unique(dim=0, return_inverse=True)
        times = of.bincount()
        mean = of.bincount(self.damages[:last]) / times
        best = points[torch.where(times == times.max(), mean, -1).argmax()]
        return [round(number, DIGITS) for number in best.tolist()]


@shielded
def search(
    against: str | Mapping[str, Any],
    num_workers: int,
    num_byzantine: int,
    evaluations: int = 200,
    seed: int = 0,
    **arguments: Any,
) -> SearchResult:
    """Search the cube of `Mixture` for the attack that does most damage to a policy.

    The first points are like attacks of the literature, and then come random ones. Later ones are children of
    the best: half of them mix two parents, some numbers are drawn anew, and the others move a little. An
    evaluation plays one point in three runs of the attacker's own, whose seeds are the same for all points.
    The damage is the error rate of the final model on training data, which this attacker knows. The last
    fifth of the evaluations plays the ten best points again, with other seeds. Still, the damage of the best
    one is too high, because it was chosen for it: play it with seeds of your own to learn what it does.

    Args:
        against: The policy: the name of an agent or rule, "name:key=value", or a mapping with a "name".
        num_workers: n, at least 1.
        num_byzantine: f, from 0 to n - 1.
        evaluations: How many the attacker can afford, at least 1.
        seed: Of the search, at least 0; the same seed finds the same points.
        arguments: The victim's setting, as far as the attacker knows it: ``task``, ``rounds``, ``roles`` and
            the other fields of `byzgym.simulation.config.RunConfig`, with the same defaults.

    Raises:
        ValueError: If a value is not allowed, or the policy does not exist.
        TypeError: If ``against`` is an object, or an argument or parameter does not exist.

    Example:
        >>> result = search("mean", num_workers=5, num_byzantine=2, evaluations=6, task="synthetic", rounds=5)
        >>> result.points.shape, result.damages.shape
        (torch.Size([6, 31]), torch.Size([6]))
    """
    _check(against, evaluations, seed, arguments)
    setting = {**arguments, "num_workers": num_workers, "num_byzantine": num_byzantine}
    generator = torch.Generator().manual_seed(seed)
    # All points meet the same seeds: how much a run suffers depends more on its seed than on the point.
    first, *others = torch.randint(
        2**62, (1 + int(FINAL_SHARE * evaluations / FINALISTS), RUNS), generator=generator
    ).tolist()
    trials = evaluations - FINALISTS * len(others)
    points, damages = torch.zeros(0, SIZE), torch.zeros(0)
    for start in range(0, trials, GENERATION):
        new = torch.rand(GENERATION, SIZE, generator=generator)
        if start == 0:
            new = torch.cat([torch.tensor(KNOWN), new])
        elif start >= RANDOM_SHARE * evaluations:
            new = _children(points[damages.topk(PARENTS).indices], GENERATION, generator)
        new = new[: min(GENERATION, trials - start)].round(decimals=DIGITS)
        points, damages = torch.cat([points, new]), torch.cat([damages, _play(against, new, first, setting)])
    finalists = points[damages.topk(min(FINALISTS, trials)).indices]
    for seeds in others:
        points = torch.cat([points, finalists])
        damages = torch.cat([damages, _play(against, finalists, seeds, setting)])
    return SearchResult(points, damages)


def _children(parents: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Points [count, SIZE] near pairs of parents [p, SIZE]."""

    def uniform() -> Tensor:
        return torch.rand(count, SIZE, generator=generator)

    one, other = torch.randint(len(parents), (2, count), generator=generator)
    mixed = torch.rand(count, 1, generator=generator) < 0.5
    children = torch.where(mixed & (uniform() < 0.5), parents[other], parents[one])
    # Small, because a twelfth of a number's range is a kind of component.
    children = (children + 0.02 * torch.randn(count, SIZE, generator=generator)).clamp(0, 1)
    return torch.where(uniform() < 0.1, uniform(), children)


def _play(against: Any, points: Tensor, seeds: Sequence[int], setting: Mapping[str, Any]) -> Tensor:
    """The damage [k] of points [k, SIZE], each played with all seeds, side by side."""
    attack = _Population(points.repeat_interleave(len(seeds), 0))
    simulation = Simulation.make(len(attack.points), seed=0, attack=attack, **setting)
    agent = agents.build(against, simulation)
    simulation.reset(list(seeds) * len(points))
    agent.reset()
    for _ in range(simulation.setup.rounds):
        simulation.apply(agent.decide(simulation.view))
    x, y = simulation.setup.task.train
    every = -(-len(y) // SAMPLES)
    measured = metrics.test_metrics(simulation.engine, simulation.server.theta, x[::every], y[::every])
    return 1 - measured["accuracy"].view(len(points), len(seeds)).mean(1).cpu()


class _Population(Mixture):
    """A point of its own for each environment of a simulation that has no other attack."""

    def __init__(self, points: Tensor) -> None:
        super().__init__()
        self.points = points  # [E, SIZE]

    def _draw_points(self, byzantine: Tensor, context: AttackContext, where: Tensor) -> Tensor:
        return self.points.to(where.device)


@attacks.registry.registry.built_in("adaptive")
class Adaptive(Mixture):
    """An attacker who knows the server's policy, and has searched `mixture` for what harms it most.

    Before the first attack it plays many points of `mixture` against the policy, in simulations of its own,
    and then plays the best one; see `byzgym.adaptive.search`. It knows the numbers of workers and of
    Byzantine ones and, while it attacks, what `mixture` does: all honest gradients and the last update. It
    knows no seed of the victim's, no sample of the server and no test data.

    The search takes as long as ``3 * evaluations`` runs: against set some minutes, once per process for
    each n and f. A policy whose weights in a file change later is not searched again.

    Args:
        against: The policy, such as set, "gaa:window=5" or a mapping with a "name". Objects can be registered
            (`byzgym.agents.register`).
        evaluations: How many the attacker can afford, at least 1.
        seed: Of the search, at least 0; it does not depend on the victim's.
        arguments: The victim's setting as the attacker imagines it: ``task``, ``rounds``, ``roles`` and the
            other fields of `byzgym.simulation.config.RunConfig`, with the same defaults. An attacker who
            imagines another one finds less.

    Example:
        >>> from byzgym.simulation import Simulation
        >>> attack = "adaptive:against=krum,evaluations=6,task=synthetic,rounds=5"
        >>> simulation = Simulation.make(seed=0, attack=attack, task="synthetic", rounds=5)
        >>> simulation.gradients.shape
        torch.Size([1, 10, 195])
    """

    def __init__(
        self,
        against: str | Mapping[str, Any] = "set",
        evaluations: int = 200,
        seed: int = 0,
        **arguments: Any,
    ) -> None:
        super().__init__()
        if "num_workers" in arguments:
            raise TypeError("num_workers is what the attack sees in the run and must not be given")
        _check(against, evaluations, seed, arguments)
        self.against, self.evaluations, self.seed, self.arguments = against, evaluations, seed, arguments
        settings = {"against": against, "evaluations": evaluations, "seed": seed, **arguments}
        try:
            self._settings = json.dumps(settings, sort_keys=True)
        except TypeError:
            raise TypeError(
                f"arguments must be names and numbers, no objects, got {shown(settings)}"
            ) from None

    def _points(self, byzantine: Tensor, context: AttackContext) -> Tensor:
        """The points [E, SIZE]: that for the first f of the episode that is not 0, and zeros before."""
        point = context.memory.read("point", SIZE)
        known = context.memory.read("has_point", dtype=torch.bool)
        new = byzantine.any(1) & ~known
        if new.any():
            counts = byzantine.sum(1)
            for f in counts[new].unique().tolist():
                found = torch.tensor(self._best(byzantine.shape[1], f), device=point.device)
                point = torch.where((new & (counts == f))[:, None], found, point)
            context.memory.write("point", point)
            context.memory.write("has_point", known | new)
        return point

    def _best(self, num_workers: int, num_byzantine: int) -> tuple[float, ...]:
        # A simulation has an honest worker; where there is none, the attacker imagines one.
        return _found(
            self._settings, _factory(self.against), num_workers, min(num_byzantine, num_workers - 1)
        )


@lru_cache(maxsize=256)
def _found(
    settings: str, factory: Callable[..., Any], num_workers: int, num_byzantine: int
) -> tuple[float, ...]:
    """The best point of a search, once per process. ``factory`` tells a policy that is registered again."""
    return tuple(search(num_workers=num_workers, num_byzantine=num_byzantine, **json.loads(settings)).best())


def _check(against: Any, evaluations: Any, seed: Any, arguments: Mapping[str, Any]) -> None:
    if not isinstance(against, str | Mapping):
        raise TypeError(
            "against must be the name of a policy, 'name:key=value' or a mapping with a 'name' (register "
            f"objects with byzgym.agents.register), got {shown(against)}"
        )
    with within("against"):
        agents.make_from(against)
    check_int("evaluations", evaluations, low=1)
    check_int("seed", seed, low=0)
    config_from(RunConfig, arguments)


def _factory(against: str | Mapping[str, Any]) -> Callable[..., Any]:
    name = normalised(against)["name"]
    own = agents.registry.registry
    factory: Callable[..., Any] = (own if name in own.names() else aggregation.registry.registry).factory(
        name
    )
    return factory
