"""What the recipes for stable-baselines3 have in common: environments, evaluation, controls, results.

A recipe is a subclass of `Recipe` with the settings of its learner, such as agents/ppo.py.
"""

from __future__ import annotations

import csv
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import matplotlib
import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv

from byzgym import agents
from byzgym.integrations.sb3 import CutAtFloor, make_vec_env

matplotlib.use("Agg")
import matplotlib.pyplot as plt

EVALUATION_SEED = 100_000
FIELDS = ("policy", "seed", "steps", "episode_return", "accuracy", "byzantine_credit", "diverged", "seconds")
CONTROLS = {"uniform": "C7", "fixed": "C5", "random": "C1", "trust": "C3", "gaa": "C4", "oracle": "C2"}
"""What needs no training, with colours; the oracle knows who is honest."""
Predict = Callable[..., tuple[np.ndarray, Any]]


@dataclass
class Recipe(ABC):
    """How to train a learner on ByzantineAggregation-v0; it is compared with controls on the same seeds."""

    name: ClassVar[str]
    """Of the learner, as `byzgym train` calls it."""

    out: Path
    """Folder for results.csv, learning_curve.png and the trained models."""
    seeds: int = 5
    """Number of trainings, with the seeds 0, 1, ..."""
    total_steps: int = 150_000
    """Rounds of training per seed, over all environments."""
    num_envs: int = 64
    """Environments that run side by side."""
    evaluate_every: int = 30_720
    """Rounds of training between evaluations."""
    evaluation_episodes: int = 64
    """Episodes per evaluation."""
    observation: tuple[str, ...] = (
        *("similarity", "trust", "relative_norms"),
        *("reputation", "history", "age"),  # running means, for a policy without a memory
    )
    """Parts of the observation."""
    reward_size: int | None = 128
    """Held-out samples on which the reward is computed; None is the QV set, whose ten samples overfit."""
    reward_form: Literal["relative", "log"] = "relative"
    """The reward of a round: relative drop of the loss, or drop of its logarithm."""
    beta: float = 10.0
    """Inverse temperature of the softmax; two credits differ by a factor of at most e^20."""
    gamma: float = 0.9
    """Discount factor. The effect of a round's credits shows within a few rounds."""
    reward_floor: float = -0.2
    """In training, rewards are raised to this, and an episode ends where one was below."""
    threads: int = 1
    """Threads of torch; more than one gains little."""
    num_byzantine: int = 7
    """Byzantine workers among the 10."""
    rounds: int = 100
    """Length of an episode."""

    @property
    def softmax(self) -> float | None:
        """Inverse temperature for the environment; None if the actions are credits."""
        return self.beta

    @abstractmethod
    def learner(self, env: VecEnv, seed: int) -> BaseAlgorithm:
        """The learner before its training."""


class Evaluate(BaseCallback):
    """Evaluates at the start, every ``evaluate_every`` rounds and at the end."""

    def __init__(self, config: Recipe, seed: int) -> None:
        super().__init__()
        self.config, self.seed = config, seed
        self.rows: list[dict[str, Any]] = []
        self.started = time.perf_counter()

    def _on_rollout_start(self) -> None:
        if self.num_timesteps >= len(self.rows) * self.config.evaluate_every:
            self._evaluate()

    def _on_step(self) -> bool:
        return True

    def _on_training_end(self) -> None:
        if self.rows[-1]["steps"] < self.num_timesteps:
            self._evaluate()

    def _evaluate(self) -> None:
        env = make(self.config, self.config.evaluation_episodes, EVALUATION_SEED, self.config.softmax)
        means = play(env, self.model.predict)
        self.rows.append(row(self.config.name, means, self.started, self.seed, self.num_timesteps))


def run(config: Recipe) -> None:
    """Play the controls, then train with every seed; results.csv and the picture follow each training."""
    torch.set_num_threads(config.threads)
    config.out.mkdir(parents=True, exist_ok=True)
    rows = controls(config)
    for seed in range(config.seeds):
        rows += train(config, seed)
        with (config.out / "results.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, FIELDS)
            writer.writeheader()
            writer.writerows(rows)
        draw(config, rows, config.out / "learning_curve.png")


def controls(config: Recipe) -> list[dict[str, Any]]:
    rows = []
    for name in CONTROLS:
        started = time.perf_counter()
        env = make(config, config.evaluation_episodes, EVALUATION_SEED, None, action="null_slot")
        means = play(env, agents.make(name).bind(env).predict)
        rows.append(row("oracle (reference)" if name == "oracle" else name, means, started))
    return rows


def train(config: Recipe, seed: int) -> list[dict[str, Any]]:
    env = CutAtFloor(make(config, config.num_envs, 1000 * seed, config.softmax), config.reward_floor)
    model = config.learner(env, seed)
    callback = Evaluate(config, seed)
    model.learn(config.total_steps, callback=callback)
    model.save(config.out / f"{config.name}_{seed}.zip")
    return callback.rows


def make(config: Recipe, num_envs: int, seed: int, beta: float | None, action: str = "credits") -> VecEnv:
    return make_vec_env(
        num_envs,
        seed=seed,
        softmax_beta=beta,
        observation=list(config.observation),
        num_byzantine=config.num_byzantine,
        rounds=config.rounds,
        reward_size=config.reward_size,
        reward_form=config.reward_form,
        action=action,
    )


def play(env: VecEnv, predict: Predict) -> dict[str, float]:
    """Means over the first episode of every environment."""
    seen: Any = env.reset()
    byzantine = np.stack([info["byzantine"] for info in env.reset_infos])  # the same in all rounds
    count = len(byzantine)
    going, starts, state = np.ones(count, dtype=bool), np.ones(count, dtype=bool), None
    totals, credit, length, accuracy, diverged = (np.zeros(count) for _ in range(5))
    while going.any():
        actions, state = predict(seen, state, starts, deterministic=True)
        seen, rewards, starts, infos = env.step(actions)
        for i in np.flatnonzero(going):
            totals[i] += rewards[i]
            credit[i] += infos[i]["credits"][byzantine[i]].sum()
            length[i] += 1
            if starts[i]:
                accuracy[i], diverged[i] = infos[i]["accuracy"], infos[i]["diverged"]
        going &= ~starts
    return {
        "episode_return": float(totals.mean()),
        "accuracy": float(accuracy.mean()),
        "byzantine_credit": float((credit / length).mean()),
        "diverged": float(diverged.mean()),
    }


def row(
    policy: str, means: dict[str, float], started: float, seed: int = 0, steps: int = 0
) -> dict[str, Any]:
    """A row of results.csv, also printed."""
    seconds = round(time.perf_counter() - started, 1)
    made = {"policy": policy, "seed": seed, "steps": steps, **means, "seconds": seconds}
    print({name: round(v, 3) if isinstance(v, float) else v for name, v in made.items()}, flush=True)
    return made


def draw(config: Recipe, rows: list[dict[str, Any]], path: Path) -> None:
    """Learning curves: mean over seeds, and the range."""
    figure, panels = plt.subplots(1, 2, figsize=(10, 4), constrained_layout=True)
    learned = [entry for entry in rows if entry["policy"] == config.name]
    steps = sorted({entry["steps"] for entry in learned})
    for axes, field, label in zip(
        panels, ("episode_return", "accuracy"), ("episode return", "final test accuracy"), strict=True
    ):
        values = [[entry[field] for entry in learned if entry["steps"] == step] for step in steps]
        axes.plot(steps, [np.mean(v) for v in values], color="C0", marker="o", label=config.name)
        axes.fill_between(steps, [min(v) for v in values], [max(v) for v in values], color="C0", alpha=0.2)
        for colour, control in zip(CONTROLS.values(), rows, strict=False):  # they come first
            axes.axhline(control[field], color=colour, linestyle="--", label=control["policy"])
        axes.locator_params(axis="x", nbins=5)
        axes.set_xlabel("rounds of training")
        axes.set_ylabel(label)
        axes.grid(alpha=0.3)
    figure.legend(*panels[1].get_legend_handles_labels(), loc="outside upper center", ncols=4)
    figure.savefig(path, dpi=100)
    plt.close(figure)
