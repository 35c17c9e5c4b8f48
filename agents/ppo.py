"""PPO with a permutation-equivariant policy on the default environment. Results: agents/README.md.

Usage: python agents/ppo.py --out runs/ppo
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

from byzgym import agents
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
        *("reputation", "history", "age"),  # running means, because the policy has no memory
    )
    """Parts of the observation."""
    reward_size: int | None = 128
    """Held-out samples on which the reward is computed; None is the QV set, whose ten samples overfit."""
    reward_form: Literal["relative", "log"] = "relative"
    """The reward of a round: relative drop of the loss, or drop of its logarithm."""
    policy: Literal["gaussian", "dirichlet"] = "gaussian"
    """Gaussian logits with a softmax, or credits drawn from a Dirichlet distribution."""
    beta: float = 10.0
    """Inverse temperature of the softmax; two credits differ by a factor of at most e^20."""
    log_std_init: float = -1.0
    """Logarithm of the Gaussian's initial standard deviation."""
    learning_rate: float = 1e-3
    """Initial learning rate. It falls linearly to zero."""
    n_steps: int = 20
    """Rounds per environment and update."""
    batch_size: int = 640
    """Samples per gradient step."""
    n_epochs: int = 4
    """Passes over the samples of an update."""
    gamma: float = 0.9
    """Discount factor. The effect of a round's credits shows within a few rounds."""
    ent_coef: float = 0.0
    """Weight of the entropy bonus."""
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
        return self.beta if self.policy == "gaussian" else None


class Evaluate(BaseCallback):
    """Evaluates at the start, every ``evaluate_every`` rounds and at the end."""

    def __init__(self, config: Config, seed: int) -> None:
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

    def _act(self, observations: Any, byzantine: np.ndarray) -> np.ndarray:
        return self.model.predict(observations, deterministic=True)[0]

    def _evaluate(self) -> None:
        means = play(self.config, self._act, self.config.softmax)
        self.rows.append(row("ppo", means, self.started, seed=self.seed, steps=self.num_timesteps))


def row(
    policy: str, means: dict[str, float], started: float, seed: int = 0, steps: int = 0
) -> dict[str, Any]:
    """A row of results.csv, also printed."""
    seconds = round(time.perf_counter() - started, 1)
    made = {"policy": policy, "seed": seed, "steps": steps, **means, "seconds": seconds}
    print({name: round(v, 3) if isinstance(v, float) else v for name, v in made.items()}, flush=True)
    return made


def make(config: Config, num_envs: int, seed: int, beta: float | None, action: str = "credits") -> VecEnv:
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


def play(
    config: Config, act: Callable[[Any, np.ndarray], np.ndarray], beta: float | None = None
) -> dict[str, float]:
    """Means over one episode of every evaluation environment; `act` sees observations and Byzantine masks."""
    env = make(config, config.evaluation_episodes, EVALUATION_SEED, beta)
    seen = env.reset()
    byzantine = np.stack([info["byzantine"] for info in env.reset_infos])  # the same in all rounds
    return played(env, lambda seen: act(seen, byzantine), seen, byzantine)


def played(
    env: VecEnv, act: Callable[[Any], np.ndarray], seen: Any, byzantine: np.ndarray
) -> dict[str, float]:
    """Means over the first episode of every environment."""
    count = len(byzantine)
    going = np.ones(count, dtype=bool)
    totals, credit, length, accuracy, diverged = (np.zeros(count) for _ in range(5))
    while going.any():
        seen, rewards, dones, infos = env.step(act(seen))
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
    """What needs no training; the oracle knows who is honest."""
    rows = []
    for name in ("uniform", "fixed", "random", "trust", "gaa", "oracle"):
        started = time.perf_counter()
        env = make(config, config.evaluation_episodes, EVALUATION_SEED, None, action="null_slot")
        seen = env.reset()
        byzantine = np.stack([info["byzantine"] for info in env.reset_infos])
        agent = agents.make(name).bind(env)
        means = played(env, lambda seen, agent=agent: agent.predict(seen)[0], seen, byzantine)
        rows.append(row("oracle (reference)" if name == "oracle" else name, means, started))
    return rows


def train(config: Config, seed: int) -> list[dict[str, Any]]:
    gaussian = config.policy == "gaussian"
    env = CutAtFloor(make(config, config.num_envs, 1000 * seed, config.softmax), config.reward_floor)
    model = PPO(
        EquivariantPolicy if gaussian else EquivariantDirichletPolicy,
        env,
        learning_rate=lambda remaining: max(0.0, remaining) * config.learning_rate,
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
    ppo = [entry for entry in rows if entry["policy"] == "ppo"]
    steps = sorted({entry["steps"] for entry in ppo})
    for axes, field, label in zip(
        panels, ("episode_return", "accuracy"), ("episode return", "final test accuracy"), strict=True
    ):
        values = [[entry[field] for entry in ppo if entry["steps"] == step] for step in steps]
        axes.plot(steps, [np.mean(v) for v in values], color="C0", marker="o", label="PPO")
        axes.fill_between(steps, [min(v) for v in values], [max(v) for v in values], color="C0", alpha=0.2)
        for colour, control in zip(
            ("C7", "C5", "C1", "C3", "C4", "C2"), rows, strict=False
        ):  # they come first
            axes.axhline(control[field], color=colour, linestyle="--", label=control["policy"])
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
