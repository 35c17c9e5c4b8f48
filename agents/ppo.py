"""PPO with a permutation-equivariant policy on the default environment. Results: agents/README.md.

python agents/ppo.py --out runs/ppo
"""

from __future__ import annotations

import csv
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import matplotlib
import numpy as np
import torch
import tyro
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv

from byzgym.integrations.sb3 import CutAtFloor, EquivariantDirichletPolicy, EquivariantPolicy, make_vec_env

matplotlib.use("Agg")
import matplotlib.pyplot as plt

EVALUATION_SEED = 100_000
FIELDS = ("policy", "seed", "steps", "episode_return", "accuracy", "byzantine_credit", "diverged", "seconds")


@dataclass
class Config:
    """Train PPO on ByzantineAggregation-v0 and compare it with controls on the same evaluation seeds."""

    out: Path
    """Folder for results.csv, learning_curve.png and the trained models."""
    seeds: int = 3
    """Number of trainings, with the seeds 0, 1, ..."""
    total_steps: int = 150_000
    """Rounds of training per seed, over all environments."""
    num_envs: int = 64
    """Environments that run side by side."""
    evaluate_every: int = 30_720
    """Rounds of training between evaluations."""
    evaluation_episodes: int = 64
    """Episodes per evaluation."""
    observation: tuple[str, ...] = ("norms", "similarity", "trust")
    """Parts of the observation."""
    policy: Literal["gaussian", "dirichlet"] = "gaussian"
    """Gaussian logits with a softmax, or credits from a Dirichlet distribution."""
    beta: float = 10.0
    """Inverse temperature of the softmax: from a spread of 1 to e^-20 as the smallest ratio of credits."""
    log_std_init: float = -1.0
    """Logarithm of the Gaussian's initial standard deviation."""
    learning_rate: float = 1e-3
    """Initial learning rate; falls linearly to zero."""
    n_steps: int = 20
    """Rounds per environment and update."""
    batch_size: int = 640
    """Samples per gradient step."""
    n_epochs: int = 4
    """Passes over the samples of an update."""
    gamma: float = 0.9
    """Discount: what a round's credits are worth shows within some rounds."""
    ent_coef: float = 0.0
    """Weight of the entropy bonus."""
    reward_floor: float = -0.2
    """Rewards below this count as this much in training, and as the end; the environment's go down to -10."""
    threads: int = 1
    """Threads of torch; more than one gains little here, and loses where other programs use the cores."""
    num_byzantine: int = 7
    """Byzantine workers among the 10."""
    rounds: int = 100
    """Length of an episode."""


class Evaluate(BaseCallback):
    """Evaluates at the start, every so many steps and at the end, and keeps the rows."""

    def __init__(self, config: Config, seed: int) -> None:
        super().__init__()
        self.config, self.seed = config, seed
        self.rows: list[dict[str, Any]] = []
        self.started = time.perf_counter()

    def _on_rollout_start(self) -> None:
        if self.num_timesteps >= len(self.rows) * self.config.evaluate_every:
            self.add()

    def _on_step(self) -> bool:
        return True

    def _on_training_end(self) -> None:
        self.add()

    def add(self) -> None:
        """Evaluate, unless that has just been done."""
        if self.rows and self.rows[-1]["steps"] == self.num_timesteps:
            return
        model = self.model
        row = play(self.config, lambda seen, _: model.predict(seen, deterministic=True)[0], self.softmax)
        seconds = round(time.perf_counter() - self.started, 1)
        self.rows.append(
            {"policy": "ppo", "seed": self.seed, "steps": self.num_timesteps, **row, "seconds": seconds}
        )
        print(
            {k: v if not isinstance(v, float) else round(v, 3) for k, v in self.rows[-1].items()}, flush=True
        )

    @property
    def softmax(self) -> float | None:
        """The inverse temperature of the actions, None for credits."""
        return softmax_beta(self.config)


def softmax_beta(config: Config) -> float | None:
    return config.beta if config.policy == "gaussian" else None


def make(config: Config, num_envs: int, seed: int, beta: float | None) -> VecEnv:
    observation = config.observation[0] if len(config.observation) == 1 else list(config.observation)
    return make_vec_env(
        num_envs,
        seed=seed,
        softmax_beta=beta,
        observation=observation,
        num_byzantine=config.num_byzantine,
        rounds=config.rounds,
    )


def play(
    config: Config, act: Callable[[Any, np.ndarray], np.ndarray], beta: float | None = None
) -> dict[str, float]:
    """Means over one episode of every evaluation environment; `act` sees observations and Byzantine masks."""
    count = config.evaluation_episodes
    env = make(config, count, EVALUATION_SEED, beta)
    seen = env.reset()
    byzantine = np.stack([info["byzantine"] for info in env.reset_infos])  # roles are static
    going = np.ones(count, dtype=bool)
    totals, credit, length, accuracy, diverged = (np.zeros(count) for _ in range(5))
    while going.any():
        seen, rewards, dones, infos = env.step(act(seen, byzantine))
        for i in np.flatnonzero(going):
            totals[i] += rewards[i]
            credit[i] += infos[i]["credits"][byzantine[i]].sum()
            length[i] += 1
            if dones[i]:
                accuracy[i], diverged[i] = infos[i]["accuracy"], infos[i]["diverged"]
        going &= ~dones
    return {
        "episode_return": float(totals.mean()),
        "accuracy": float(accuracy.mean()),
        "byzantine_credit": float((credit / length).mean()),
        "diverged": float(diverged.mean()),
    }


def controls(config: Config) -> list[dict[str, Any]]:
    """What needs no training: uniform and random credits, and the reference that knows who is honest."""
    rng = np.random.default_rng(0)
    policies: dict[str, Callable[[Any, np.ndarray], np.ndarray]] = {
        "uniform": lambda seen, byzantine: np.ones(byzantine.shape, np.float32),
        "random": lambda seen, byzantine: rng.dirichlet(np.ones(byzantine.shape[1]), len(byzantine)),
        "oracle (reference)": lambda seen, byzantine: (~byzantine).astype(np.float32),
    }
    rows = []
    for name, act in policies.items():
        started = time.perf_counter()
        row = {"policy": name, "seed": 0, "steps": 0, **play(config, act)}
        rows.append({**row, "seconds": round(time.perf_counter() - started, 1)})
        print({k: v if not isinstance(v, float) else round(v, 3) for k, v in rows[-1].items()}, flush=True)
    return rows


def train(config: Config, seed: int) -> list[dict[str, Any]]:
    gaussian = config.policy == "gaussian"
    env = CutAtFloor(make(config, config.num_envs, 1000 * seed, softmax_beta(config)), config.reward_floor)
    model = PPO(
        EquivariantPolicy if gaussian else EquivariantDirichletPolicy,
        env,
        learning_rate=lambda remaining: remaining * config.learning_rate,
        n_steps=config.n_steps,
        batch_size=config.batch_size,
        n_epochs=config.n_epochs,
        gamma=config.gamma,
        ent_coef=config.ent_coef,
        policy_kwargs={"log_std_init": config.log_std_init} if gaussian else None,
        seed=seed,
        device="cpu",
    )
    callback = Evaluate(config, seed)
    model.learn(config.total_steps, callback=callback)
    model.save(config.out / f"ppo_{seed}.zip")
    return callback.rows


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Learning curves: mean over seeds, and the range."""
    figure, panels = plt.subplots(1, 2, figsize=(10, 4), constrained_layout=True)
    ppo = [row for row in rows if row["policy"] == "ppo"]
    steps = sorted({row["steps"] for row in ppo})
    for axes, field, label in zip(
        panels, ("episode_return", "accuracy"), ("episode return", "final test accuracy"), strict=True
    ):
        values = [[row[field] for row in ppo if row["steps"] == step] for step in steps]
        axes.plot(steps, [np.mean(v) for v in values], color="C0", marker="o", label="PPO")
        axes.fill_between(steps, [min(v) for v in values], [max(v) for v in values], color="C0", alpha=0.2)
        for colour, row in zip(("C7", "C1", "C2"), (r for r in rows if r["policy"] != "ppo"), strict=False):
            axes.axhline(row[field], color=colour, linestyle="--", label=row["policy"])
        axes.locator_params(axis="x", nbins=5)
        axes.set_xlabel("rounds of training")
        axes.set_ylabel(label)
        axes.grid(alpha=0.3)
    figure.legend(*panels[1].get_legend_handles_labels(), loc="outside upper center", ncols=4)
    figure.savefig(path, dpi=100)


def main(config: Config) -> None:
    torch.set_num_threads(config.threads)
    config.out.mkdir(parents=True, exist_ok=True)
    rows = controls(config)
    for seed in range(config.seeds):
        rows += train(config, seed)
        with (config.out / "results.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, FIELDS)
            writer.writeheader()
            writer.writerows(rows)
        draw(rows, config.out / "learning_curve.png")


if __name__ == "__main__":
    main(tyro.cli(Config))
