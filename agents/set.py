"""Train the set aggregator (`byzgym.agents.SetAggregator`) from nothing. Results: agents/README.md.

Usage: python agents/set.py --out runs/set            again with the same command: goes on where it stopped

The network is trained on simulations of small tasks, drawn at random, under random attacks. In each round it
sees what a server sees, and its credits are judged by what the simulation knows: how far the update is from
the honest mean, whether it lags behind that mean in lowering the loss on a larger batch of training data, and
whether submissions that get credit raise this loss. A generation plays one episode of each of several groups
of environments, whose tasks, attacks and settings are drawn anew, with an update of the weights after each
window of rounds; then it learns from these windows again, in random order. Attacks that hurt most are kept in
a bank and played again.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from safetensors.torch import save_file
from torch import Tensor, distributed
from torch.nn import functional as F

from byzgym import agents, attacks, files, tasks
from byzgym.agents.set.features import Features, observe, remember, start
from byzgym.agents.set.network import Result, SetNetwork
from byzgym.aggregation import Decision, ServerView
from byzgym.attacks.mixture import SIZE as MIXTURE_SIZE
from byzgym.numerics.sketch import Sketch
from byzgym.simulation import Simulation
from byzgym.validation import check_int, check_real

NAMED = (
    "none", "random", "gaussian", "sign_flip", "omniscient", "omniscient:factor=0.3", "ipm",
    "ipm:epsilon=0.1", "alie", "alie:z=0.3", "label_flip", "zero", "scaled",
)  # fmt: skip
"""Named attacks of the training; all others come from `mixture`."""


Bank = list[tuple[float, list[float]]]
"""Attacks: the damage that each did, and its point of the space of `mixture`."""


@dataclass
class Config:
    """Train the set aggregator."""

    out: Path
    """Folder for checkpoint.pt and set.safetensors."""
    generations: int = 110
    """Generations in all; the learning rate falls over them."""
    groups: int = 8
    """Simulations of a generation, each with a task and settings of its own; a multiple of the processes."""
    num_envs: int = 32
    """Environments of each simulation."""
    window: int = 8
    """Rounds between updates, through which the memory is differentiated."""
    passes: int = 4
    """Updates from each window: one after it, the others after the generation. Playing takes longer."""
    learning_rate: float = 2e-3
    """Of Adam at the start."""
    skewed: float = 0.6
    """Part of the groups whose workers have different classes; it grows from a third of this at first."""
    sketch: int = 1024
    """Length of the sketches; half of what the agent has later, because training is then faster."""
    averaging: float = 0.001
    """Weight of an update in the running mean of the network's weights, which is what is kept."""
    bank: int = 60
    """Attacks that are kept to be played again."""
    seed: int = 0
    """Of everything."""
    processes: int = 2
    """Processes with one thread each. Another number gives other results."""

    def __post_init__(self) -> None:
        """Refuse what cannot be trained, before anything is written."""
        for name in ("generations", "num_envs", "window", "passes", "sketch", "processes"):
            check_int(name, getattr(self, name), low=1)
        check_int("bank", self.bank, low=0)
        check_int("seed", self.seed, low=0)
        check_int("groups", self.groups, low=1)
        if self.groups % self.processes:
            raise ValueError(f"groups must be a multiple of processes={self.processes}, got {self.groups}")
        check_real("learning_rate", self.learning_rate, above=0)
        for name in ("skewed", "averaging"):
            check_real(name, getattr(self, name), low=0, high=1)


class Banked(attacks.Mixture):
    """The attack mixture in training: points from a bank in two of five episodes, else new ones.

    Wrong labels alone are more frequent than in `mixture` where Byzantine workers are a majority.
    Stale gradients are left out, so that replay is an attack that the network has not seen.
    """

    components = tuple(name for name in attacks.Mixture.components if name != "stale")

    def __init__(self, bank: Bank, poisoned: float) -> None:
        super().__init__()
        self.bank, self.poisoned = bank, poisoned  # the part of majorities with nothing but wrong labels

    def _draw_points(self, byzantine: Tensor, context: attacks.AttackContext, where: Tensor) -> Tensor:
        points = super()._draw_points(byzantine, context, where)
        again, poisons = context.uniform(2, where=where).unbind(1)
        if self.bank:
            chosen = context.integers(len(self.bank), 1, where=where)[:, 0]
            old = torch.tensor([row for _, row in self.bank])[chosen]
            points = torch.where(again[:, None] < 0.4, old, points)
        majority = byzantine.sum(1) * 2 >= byzantine.shape[1]
        points[:, 0] *= torch.where(majority & (poisons < self.poisoned), 0.18, 1)
        return points


def small_task(kind: str, rng: np.random.Generator) -> tuple[tasks.Task, str]:
    """A small task of one of the KINDS, and a model for it."""
    x, y, models = KINDS[kind](rng)
    num_classes = int(y.max()) + 1
    if rng.random() < 0.2:  # some labels are wrong, as they are in real data
        wrong = rng.random(len(y)) < rng.uniform(0, 0.3)
        y = np.where(wrong, rng.integers(num_classes, size=len(y)), y)
    order = rng.permutation(len(y))
    samples, labels = torch.from_numpy(x[order]).float(), torch.from_numpy(y[order])
    held = len(y) // 8
    held_out, train = (samples[:held], labels[:held]), (samples[held:], labels[held:])
    return tasks.Task(train, held_out, num_classes, held_out=held_out), str(rng.choice(models))


Drawn = tuple[np.ndarray, np.ndarray, list[str]]
"""Inputs [N, features], labels [N], and models for them."""


def relative(rng: np.random.Generator) -> Drawn:
    """The digits with other features, classes, noise and scale."""
    digits = tasks.make("digits")
    x = torch.cat([digits.train[0], digits.held_out[0]]).flatten(1).numpy()  # never the test set
    y = torch.cat([digits.train[1], digits.held_out[1]]).numpy()
    classes = rng.permutation(10)[: int(rng.choice([3, 5, 7, 10, 10, 10]))]
    keep = np.isin(y, classes)
    x, y = x[keep], np.argsort(np.concatenate([classes, np.setdiff1d(np.arange(10), classes)]))[y[keep]]
    size = int(rng.choice([12, 20, 32, 64]))
    if size < 64 or rng.random() < 0.3:
        x = x @ rng.normal(size=(64, size)) / 8
    x = x + float(rng.choice([0, 0, 0.1, 0.3])) * x.std() * rng.normal(size=x.shape)
    x = (x - x.mean() * float(rng.random() < 0.3)) * float(10 ** rng.uniform(-0.2, 0.4))
    return x, y, ["softmax", "mlp:10", "mlp:16", "mlp:16", "mlp:32", "mlp:12,12"]


def clusters(rng: np.random.Generator) -> Drawn:
    """Points in few dimensions: a class is several clusters of them, and some classes are rare."""
    features, num_classes, each = int(rng.integers(2, 11)), int(rng.integers(2, 7)), int(rng.integers(1, 5))
    y = _labels(rng, num_classes, 2000)
    centres = rng.normal(size=(num_classes, each, features)) * rng.uniform(1, 3)
    spread = rng.uniform(0.2, 0.8) * rng.normal(size=(len(y), features))
    x = centres[y, rng.integers(each, size=len(y))] + spread
    return x, y, ["mlp:16", "mlp:32", "mlp:32", "mlp:16,16", "softmax"]


def words(rng: np.random.Generator) -> Drawn:
    """Bags of words, most of whose entries are zero: words are as frequent as in a language (Zipf's law), and
    classes prefer some of them. Rare words weigh more, and all texts have the same norm."""
    size, length = int(2 ** rng.uniform(7, 9.5)), int(10 ** rng.uniform(1, 2))
    num_classes = int(rng.integers(2, 7))
    y = _labels(rng, num_classes, 1500)
    preferred = rng.random(size) < 10 ** rng.uniform(-1.3, 0)  # most words may say nothing
    preference = rng.normal(size=(num_classes, size)) * preferred * rng.uniform(0.3, 1.2)
    likelihood = preference - np.log(np.arange(size) + 2)
    scores = likelihood[y] + rng.gumbel(size=(len(y), size))  # the largest are a draw without repetition
    chosen = scores >= -np.partition(-scores, length - 1, axis=1)[:, [length - 1]]
    rows = chosen * (np.log(len(y) / (1 + chosen.sum(0))) + 1)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows * float(10 ** rng.uniform(0.3, 1)), y, ["softmax", "softmax", "mlp:8"]


KINDS = {"relative": relative, "clusters": clusters, "words": words}


def _labels(rng: np.random.Generator, num_classes: int, count: int) -> np.ndarray:
    """Labels [count] of classes which are equally frequent in half of the tasks; none is missing."""
    shares = rng.dirichlet(np.full(num_classes, 3.0)) if rng.random() < 0.5 else None
    drawn = rng.choice(num_classes, size=count - num_classes, p=shares)
    return np.concatenate([np.arange(num_classes), drawn])


class Group:
    """Environments of one simulation, and the network's memory of them, for one episode."""

    def __init__(
        self,
        config: Config,
        bank: Bank,
        skewed: float,
        episode: tuple[str, int],
        rng: np.random.Generator,
    ) -> None:
        kind, self.rounds = episode
        task, model = small_task(kind, rng)
        n = int(rng.integers(3, 13 if rng.random() < 0.75 else 21))
        share = len(task.train[1]) // n
        skews = rng.random() < skewed
        partition: Any = "iid"
        if skews:
            partition = f"dirichlet:alpha={10 ** rng.uniform(-1.3, 0):.3f}"
            if rng.random() < 0.2:
                partition = "shards"
        self.mixture = Banked(bank, 0.6 if skews else 0.35)
        named = [str(name) for name in rng.choice(NAMED, 2, replace=False)]
        overrides = []
        for _ in range(config.num_envs):
            attack, f = _attack(rng, named, self.mixture, n, skews)
            overrides.append({"attack": attack, "num_byzantine": f})
        self.simulation = Simulation.make(
            num_envs=config.num_envs,
            seed=int(rng.integers(2**40)),
            per_environment=overrides,
            task=task,
            model=model,
            num_workers=n,
            partition=partition,
            roles=f"redrawn:period={int(2 * 10 ** rng.uniform(0, 1))}" if rng.random() < 0.5 else "static",
            batch_size=min(share, int(rng.choice([1, 2, 4, 8, 16, 16, 32]))),
            learning_rate=float(10 ** rng.uniform(-1.3, 0)),
            qv_size=int(rng.integers(6, 21)),
            qv_source=f"noise:std={rng.uniform(0, 0.6) * float(task.train[0].std()):.3f}"
            if rng.random() < 0.2
            else "held_out",
            rounds=self.rounds,
        )
        self.simple = rng.random() < 0.1  # a job that offers the mean QV loss alone
        self.rng = rng
        self.sketch = Sketch(self.simulation.num_parameters, config.sketch)
        self.state = self._start()
        # A third of the environments forget in mid-episode: a server may begin with a model half trained.
        self.forget = np.where(
            rng.random(config.num_envs) < 0.33, rng.integers(1, self.rounds, config.num_envs), 0
        )
        self.damage = torch.zeros(config.num_envs)  # of the present attacks, added up over their rounds
        self.age = torch.zeros(config.num_envs)
        self._spoilers: Bank = []
        self.fresh = torch.ones(config.num_envs, dtype=torch.bool)  # memories that have just begun
        self.first_loss = torch.zeros(config.num_envs)
        self.round = 0

    def _start(self) -> dict[str, Tensor]:
        simulation = self.simulation
        return start(simulation.num_envs, simulation.num_rows, self.sketch.size, simulation.server.theta)

    def windows(self, network: SetNetwork, length: int) -> Iterator[Window]:
        """Play the episode, a window at a time."""
        while self.round < self.rounds:
            hidden = self.state["hidden"]
            count = min(length, self.rounds - self.round)
            yield Window(hidden, [self._play(network) for _ in range(count)])

    @torch.no_grad()
    def _play(self, network: SetNetwork) -> Step:
        """One round: decide, and step."""
        simulation = self.simulation
        if self.round > 0:
            self._forget(torch.from_numpy(self.forget == self.round))
        view = simulation.view
        if self.simple:
            view = ServerView(
                view.gradients,
                view.theta,
                view.learning_rate,
                view.qv_loss,
                view.round,
                view.rejected,
                view.previous_update,
                view.previous_credits,
                qv_loss_and_gradient=view.qv_loss_and_gradient,
            )
        features, state = observe(view, self.sketch, self.state)
        result = network(features, self.state["hidden"])
        honest, rate = ~simulation.byzantine, view.learning_rate
        loss, gradient = self._larger_loss()
        simulation.apply(Decision.from_credits(result.credits.detach(), view))
        self.state = remember(state, result.credits, result.hidden)
        self.round += 1
        if self.round == 1:
            self.first_loss = loss
        cosines = (state["rows"][:, 0, :, : self.sketch.size] @ self.sketch(gradient)[..., None])[..., 0]
        steepness = torch.linalg.vector_norm(self.sketch(gradient), dim=1)
        step = Step(self.fresh, features, honest, cosines, steepness, rate / loss)
        self.fresh = torch.zeros_like(self.fresh)
        self.damage += judged(result, step)["distance"]
        self.age += 1
        self._begin_anew((loss > 10 * self.first_loss + 5).nonzero()[:, 0].tolist())
        return step

    def _forget(self, envs: Tensor) -> None:
        """Begin the memory anew in some environments, bool [E]."""
        if envs.any():
            self.fresh = self.fresh | envs
            for name, new in self._start().items():
                at = envs.view(-1, *[1] * (new.dim() - 1))
                self.state[name] = torch.where(at, new, self.state[name])

    def _begin_anew(self, envs: list[int]) -> None:
        """New episodes where a model is spoilt, since there is nothing left to learn there."""
        if envs:
            self._spoilers += self._points(envs)  # the reset draws other points
            self.damage[envs] = self.age[envs] = 0
            self.simulation.reset([int(self.rng.integers(2**40)) for _ in envs], envs)
            spoilt = torch.zeros(self.simulation.num_envs, dtype=torch.bool)
            spoilt[envs] = True
            self._forget(spoilt)

    def _larger_loss(self) -> tuple[Tensor, Tensor]:
        """The loss [E] on 128 samples of training data, and its gradient [E, d]."""
        simulation = self.simulation
        x, y = simulation.setup.task.train
        rows = torch.from_numpy(self.rng.integers(len(y), size=(simulation.num_envs, 128)))
        loss, gradient = simulation.engine.loss_and_gradient(simulation.server.theta, x[rows], y[rows])
        return loss.clamp(min=0.05), gradient.nan_to_num(0, 0, 0)

    def attackers(self) -> Bank:
        """The damage a round done by each point of the mixture that was played."""
        return self._spoilers + self._points(range(self.simulation.num_envs))

    def _points(self, envs: Iterable[int]) -> Bank:
        """The damage a round and the point of those of the environments in which the mixture is played."""
        played = [attack.attack for attack in self.simulation.workers.attacks]
        if self.mixture not in played:
            return []
        number = played.index(self.mixture)
        points = self.simulation.workers.memories[number + 1].read("point", MIXTURE_SIZE)
        damage = self.damage / self.age.clamp(min=1)
        own = [env for env in envs if self.simulation.workers.attack_of[env] == number]
        return [(float(damage[env]), points[env].tolist()) for env in own]


@dataclass
class Step:
    """One round: what the network saw, and what its decision is judged by, inner products alone."""

    fresh: Tensor  # [E] bool, whose memory began in this round
    features: Features
    honest: Tensor  # [E, n] bool
    cosines: Tensor  # [E, n], of the unit submissions with the gradient of the loss on more data
    steepness: Tensor  # [E], the norm of that gradient
    relative_rate: Tensor  # [E], the learning rate over that loss


@dataclass
class Window:
    """Rounds in a row."""

    hidden: Tensor  # [E, n, HIDDEN], the memory before them
    steps: list[Step]

    def losses(self, network: SetNetwork) -> dict[str, Tensor]:
        """The costs of what the network would decide, each a mean over rounds and environments."""
        hidden, terms = self.hidden, []
        for step in self.steps:
            result = network(step.features, hidden.masked_fill(step.fresh[:, None, None], 0))
            hidden = result.hidden
            terms.append(judged(result, step))
        return {name: torch.stack([term[name] for term in terms]).mean() for name in terms[0]}


def judged(result: Result, step: Step) -> dict[str, Tensor]:
    """What a decision costs, [E] each."""
    features, honest, cosines = step.features, step.honest, step.cosines

    # Distance: how far the update is from the honest mean, relative to it.
    log_norms, pairs = features.log_norms, features.pairs[:, 0]
    share = honest / honest.sum(1, keepdim=True).clamp(min=1)
    scale = log_norms.masked_fill(~honest, -60).amax(1, keepdim=True)  # that of honest submissions
    lengths = (log_norms - scale).clamp(max=30).exp()
    target = share * lengths
    given = result.weights * (result.factors * lengths)
    norm = _square(target, pairs).clamp(min=1e-6)
    distance = torch.log1p((_square(given - target, pairs) / norm).clamp(min=0))

    # Lag: by how much less the update lowers the loss than the honest mean does. Where gradients are almost
    # orthogonal to each other, distance is mostly noise, and equal credits seem good even if most workers
    # pull in the wrong direction.
    goal = (target * cosines).sum(1)
    clear = goal > 0.05 * norm.sqrt() * step.steepness
    progress = (given * cosines).sum(1) / goal.where(clear, 1)
    lag = (1 - progress).clamp(0, 3).where(clear, 0).nan_to_num()

    # Harm: how much each (shortened) submission would raise the loss, in first order, from the parameters
    # before the step. Behind it, where a step goes too far, honest submissions would seem to do harm. Were
    # benefit rewarded, the longest submissions would get all credit where the model fits its data, and such
    # steps overshoot.
    slope = cosines * (log_norms.clamp(max=30).exp() * result.factors)
    harm = (result.weights * (-step.relative_rate[:, None] * slope).clamp(0, 1).nan_to_num()).sum(1)
    honesty = F.binary_cross_entropy_with_logits(result.honest, honest.float(), reduction="none").mean(1)
    return {"distance": distance, "harm": harm, "lag": lag, "honesty": honesty}


def _attack(
    rng: np.random.Generator, named: list[str], mixture: Banked, n: int, skewed: bool
) -> tuple[Any, int]:
    """The attack of an environment and its f."""
    if skewed and rng.random() < 0.25:
        return "none", 0
    f = n - 1 if rng.random() < 0.25 else int(rng.integers(n))
    if rng.random() < 0.4:
        f = max(f, -(-n // 2))
    return (str(rng.choice(named)) if rng.random() < 1 / 3 else mixture), f


def _square(weights: Tensor, cosines: Tensor) -> Tensor:
    """The squared norm [E] of unit rows with these cosines [E, n, n] times weights [E, n]."""
    return (weights[:, None] @ cosines @ weights[..., None])[:, 0, 0]


def validate(network: SetNetwork) -> dict[str, float]:
    """Accuracy beside the oracle's on the digits data, for cells that are part of the training."""
    ratios = {}
    for name, arguments in {
        "sign_flip": {"attack": "sign_flip", "num_byzantine": 9},
        "label_flip": {"attack": "label_flip", "num_byzantine": 9},
        "mixture": {"attack": "mixture", "roles": "redrawn"},
        "skew_none": {"attack": "none", "num_byzantine": 0, "partition": "dirichlet:alpha=0.1"},
        "skew_flip": {"attack": "label_flip", "partition": "dirichlet:alpha=0.5"},
    }.items():
        accuracy = []
        for policy in (agents.SetAggregator(pretrained=False), "oracle"):
            simulation = Simulation.make(num_envs=8, seed=900, **arguments)
            agent = agents.build(policy, simulation)
            if isinstance(agent, agents.SetAggregator):
                agent.network.load_state_dict(network.state_dict())
            for _ in range(120):
                simulation.apply(agent.decide(simulation.view))
            accuracy.append(float(simulation.evaluate()["accuracy"].mean()))
        ratios[name] = round(accuracy[0] / accuracy[1], 3)
    return ratios


class Learner:
    """A network, the running mean of its weights, the optimizer, and the bank of attacks."""

    def __init__(self, config: Config, make: Callable[[], SetNetwork] = SetNetwork) -> None:
        torch.manual_seed(config.seed)  # for the initial weights
        self.config = config
        self.network, self.mean = make(), make()
        self.mean.load_state_dict(self.network.state_dict())
        self.mean.requires_grad_(False)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=config.learning_rate)
        self.bank: Bank = []

    def play(self, generation: int, rank: int = 0) -> tuple[list[dict[str, float]], Bank]:
        """Play a process's episodes of a generation, and learn. Returns losses of the windows, and attacks.

        What is drawn depends on the seed, the generation and the rank alone, so a resumed run repeats it.
        """
        config = self.config
        done = generation / config.generations
        falling = 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done))
        for parameters in self.optimizer.param_groups:
            parameters["lr"] = config.learning_rate * falling * min(1, (generation + 1) / 5)
        skewed = config.skewed * min(1, 1 / 3 + 2 * done)
        episodes = drawn_episodes(config, np.random.default_rng([config.seed, generation]))
        groups = [
            Group(
                config,
                self.bank,
                skewed,
                episode,
                np.random.default_rng([config.seed, generation, rank, number]),
            )
            for number, episode in enumerate(episodes)
        ]
        log, windows = [], []
        for window in interleaved([group.windows(self.network, config.window) for group in groups]):
            log.append(self._learn(window))
            windows.append(window)
        order = np.random.default_rng([config.seed, generation, rank])
        for _ in range(config.passes - 1):
            for number in order.permutation(len(windows)):
                self._learn(windows[number])
        return log, [entry for group in groups for entry in group.attackers()]

    def _learn(self, window: Window) -> dict[str, float]:
        """Update the weights. Returns the losses before that."""
        losses = window.losses(self.network)
        loss = losses["distance"] + 8 * losses["harm"] + losses["lag"] + 0.1 * losses["honesty"]
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimizer.step()
        for slow, fast in zip(self.mean.parameters(), self.network.parameters(), strict=True):
            slow.data.lerp_(fast.data, self.config.averaging)
        return {name: float(value.detach()) for name, value in losses.items()}

    def keep(self, found: Bank) -> None:
        """Put new attacks into the bank, which keeps those that did most damage; old damage counts less."""
        old = [(0.97 * damage, point) for damage, point in self.bank]
        self.bank = sorted(old + found, reverse=True)[: self.config.bank]

    def average(self) -> None:
        """Replace weights and Adam's moments by their means over the processes."""
        names = ("exp_avg", "exp_avg_sq", "step")
        moments = [state[name] for state in self.optimizer.state.values() for name in names]
        for tensor in (*self.network.parameters(), *self.mean.parameters(), *moments):
            distributed.all_reduce(tensor.data)
            tensor.data /= distributed.get_world_size()

    def save(self, generation: int, seconds: float) -> None:
        """Write the checkpoint, after so many generations and seconds."""
        parts = {name: getattr(self, name).state_dict() for name in ("network", "mean", "optimizer")}
        with files.write_whole(self.config.out / "checkpoint.pt") as path:
            torch.save(
                parts
                | {"bank": self.bank, "config": _settings(self.config)}
                | {"generation": generation, "seconds": seconds},
                path,
            )

    def load(self) -> tuple[int, float]:
        """Go on from the checkpoint, if there is one. Returns generations and seconds so far."""
        checkpoint = self.config.out / "checkpoint.pt"
        if not checkpoint.exists():
            return 0, 0.0
        saved = torch.load(checkpoint)
        for name in ("network", "mean", "optimizer"):
            getattr(self, name).load_state_dict(saved[name])
        self.bank = saved["bank"]
        return saved["generation"], saved["seconds"]


def drawn_episodes(config: Config, rng: np.random.Generator) -> list[tuple[str, int]]:
    """Kinds of tasks and rounds of the episodes that each process plays in a generation: the same for all, so
    that they wait little for each other.

    Most episodes are short, because runs are won or lost in their first rounds. In the others the model comes
    to fit the QV samples, which then say little.
    """
    count = config.groups // config.processes
    kinds = rng.choice(list(KINDS), size=count, p=[0.45, 0.25, 0.3])
    exponents = [rng.uniform(0, 0.7) if rng.random() < 0.7 else rng.uniform(0.7, 1.2) for _ in range(count)]
    return [(str(kind), int(16 * 10**exponent)) for kind, exponent in zip(kinds, exponents, strict=True)]


def interleaved(iterators: list[Iterator[Any]]) -> Iterator[Any]:
    """The items of several iterators in turn."""
    running = list(iterators)
    while running:
        for iterator in list(running):
            try:
                yield next(iterator)
            except StopIteration:
                running.remove(iterator)


def train(rank: int, config: Config) -> None:
    """What each process does: it plays its share of a generation; then all average what they learned."""
    torch.set_num_threads(1)
    meeting = (config.out / "meeting").absolute().as_uri()
    distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=config.processes)
    learner, parent = Learner(config), os.getppid()
    first, seconds = learner.load()
    began = time.perf_counter() - seconds
    for generation in range(first, config.generations):
        log, found = learner.play(generation, rank)
        learner.average()
        log = gathered(log)
        learner.keep(gathered(found))
        if os.getppid() != parent:  # it was killed, and with it the lock on the folder is gone
            return
        if rank == 0:
            seconds = time.perf_counter() - began
            learner.save(generation + 1, seconds)
            report(learner, generation + 1, log, seconds)
    if rank == 0:
        with files.write_whole(config.out / "set.safetensors") as path:
            save_file(learner.mean.state_dict(), path)
    distributed.destroy_process_group()


def report(learner: Learner, generations: int, log: list[dict[str, float]], seconds: float) -> None:
    """Print a line, and after each 25th generation how the network does beside the oracle."""
    left = seconds / generations * (learner.config.generations - generations)
    means = {name: round(float(np.mean([row[name] for row in log])), 3) for name in log[0]}
    clock = f"{seconds / 60:.1f} min, {left / 60:.0f} left"
    print(f"{generations}/{learner.config.generations} {means} {clock}", flush=True)
    if generations % 25 == 0:
        print(validate(learner.mean), flush=True)


def _settings(config: Config) -> dict[str, Any]:
    """All that decides what is learned."""
    return {name: value for name, value in asdict(config).items() if name != "out"}


def check_checkpoint(config: Config) -> None:
    """Stop where a checkpoint is of a training with other settings."""
    checkpoint = config.out / "checkpoint.pt"
    if not checkpoint.exists():
        return
    settings = torch.load(checkpoint)["config"], _settings(config)
    then, now = ({name: repr(value) for name, value in given.items()} for given in settings)
    differing = [
        f"{name}={then.get(name, 'unknown')}, now {now.get(name, 'unknown')}"
        for name in now | then
        if then.get(name) != now.get(name)
    ]
    if differing:
        raise SystemExit(
            f"{checkpoint} was trained with {'; '.join(differing)}; give the same settings or another --out"
        )


def gathered(mine: list[Any]) -> list[Any]:
    """The items of all processes."""
    everybody: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(everybody, mine)
    return [item for items in everybody for item in items]


def main(config: Config) -> None:
    config.out.mkdir(parents=True, exist_ok=True)
    with files.lock(config.out):
        check_checkpoint(config)
        (config.out / "meeting").unlink(missing_ok=True)
        torch.multiprocessing.spawn(train, (config,), nprocs=config.processes)


if __name__ == "__main__":
    main(tyro.cli(Config))
