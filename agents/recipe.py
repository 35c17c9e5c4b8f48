"""What the recipes for stable-baselines3 have in common: environments, evaluation, controls, results.

A recipe is a subclass of `Recipe` with the settings of its learner, such as agents/ppo.py.
"""

from __future__ import annotations

import csv
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import matplotlib
import numpy as np
import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from byzgym.integrations.sb3 import evaluation, learners
from byzgym.integrations.sb3.config import NAME, TrainingConfig
from byzgym.validation import check_int

matplotlib.use("Agg")
import matplotlib.pyplot as plt

FIELDS = ("policy", "seed", "steps", "episode_return", "accuracy", "byzantine_credit", "diverged", "seconds")
CONTROLS = {"uniform": "C7", "fixed": "C5", "random": "C1", "trust": "C3", "gaa": "C4", "oracle": "C2"}
"""What needs no training, with colours; the oracle knows who is honest."""


@dataclass
class Recipe(ABC):
    """How to train a learner on ByzantineAggregation-v0; it is compared with controls on the same seeds."""

    name: ClassVar[str]
    """Of the learner, as `byzgym train` calls it."""

    out: Path
    """Folder for results.csv, learning_curve.png and the trained models."""
    seeds: int = 5
    """Number of trainings, with the seeds first_seed, first_seed + 1, ..."""
    first_seed: int = 0
    """Other than 0 to choose settings, which are then reported on 0, 1, ..."""
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

    def __post_init__(self) -> None:
        """Refuse numbers with which nothing would be trained or evaluated."""
        for name in ("seeds", "total_steps", "num_envs", "evaluate_every", "evaluation_episodes", "threads"):
            check_int(name, getattr(self, name), low=1)
        check_int("first_seed", self.first_seed, low=0)

    @property
    def softmax(self) -> float | None:
        """Inverse temperature for the environment; None if the actions are credits."""
        return self.beta

    @property
    def environment(self) -> dict[str, Any]:
        """The arguments of the environment."""
        return {
            "observation": list(self.observation),
            "num_byzantine": self.num_byzantine,
            "rounds": self.rounds,
            "reward_size": self.reward_size,
            "reward_form": self.reward_form,
        }

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """The learner's settings, as `byzgym train` has them."""

    def training(self, seed: int) -> TrainingConfig:
        """A training with this seed, as `byzgym train` makes it: on episodes that no evaluation plays."""
        return TrainingConfig(
            algorithm=self.name,
            environment=self.environment,
            softmax_beta=self.softmax,
            reward_floor=self.reward_floor,
            settings=self.settings(),
            seed=seed,
            num_envs=self.num_envs,
            steps=self.total_steps,
        )


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
        config = self.config
        env = evaluation.environments(config.evaluation_episodes, config.softmax, config.environment)
        scores = play(env, self.model.predict)
        self.rows.append(row(config.name, scores, self.started, self.seed, self.num_timesteps))


class ByzantineCredit(VecEnvWrapper):
    """Sums the credits of all Byzantine workers over the first episode of every environment."""

    def reset(self) -> VecEnvObs:
        """Reset the environments, and the sums."""
        observations = self.venv.reset()
        self.byzantine = np.stack([info["byzantine"] for info in self.venv.reset_infos])  # for all rounds
        self.sums, self.rounds, self.going = np.zeros((3, self.num_envs))
        self.going += 1
        return observations

    def step_wait(self) -> VecEnvStepReturn:
        """Play one round."""
        observations, rewards, dones, infos = self.venv.step_wait()
        credits = np.stack([info["credits"] for info in infos])
        self.sums += self.going * (credits * self.byzantine).sum(1)
        self.rounds += self.going
        self.going *= ~dones
        return observations, rewards, dones, infos


def run(config: Recipe) -> None:
    """Play the controls, then train with every seed; results.csv and the picture follow each training."""
    torch.set_num_threads(config.threads)
    config.out.mkdir(parents=True, exist_ok=True)
    rows = controls(config)
    for seed in range(config.first_seed, config.first_seed + config.seeds):
        rows += train(config, seed)
        with (config.out / "results.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        draw(config, rows, config.out / "learning_curve.png")


def controls(config: Recipe) -> list[dict[str, Any]]:
    """The rows of what needs no training."""
    rows = []
    for name in CONTROLS:
        started = time.perf_counter()
        scores = play(*evaluation.control(name, config.evaluation_episodes, config.environment))
        rows.append(row("oracle (reference)" if name == "oracle" else name, scores, started))
    return rows


def train(config: Recipe, seed: int) -> list[dict[str, Any]]:
    """Train with this seed, and save the model; returns the rows of its evaluations."""
    training = config.training(seed)
    model = learners.make(training)
    callback = Evaluate(config, seed)
    model.learn(config.total_steps, callback=callback)
    folder = config.out / f"seed_{seed}"
    folder.mkdir(exist_ok=True)
    model.save(folder / "model.zip")
    (folder / NAME).write_text(training.text(), encoding="utf-8")
    return callback.rows


def play(env: VecEnv, predict: evaluation.Predict) -> dict[str, float]:
    """Means over the evaluation's episodes."""
    watched = ByzantineCredit(env)
    scores = evaluation.play(watched, predict)
    return {
        "episode_return": scores["return"],
        "accuracy": scores["accuracy"],
        "byzantine_credit": float((watched.sums / watched.rounds).mean()),
        "diverged": scores["diverged"],
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
