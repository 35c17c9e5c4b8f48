"""Environment steps per second on the default task, and what a step costs beside its gradients.

    python benchmarks/vector.py
    python benchmarks/vector.py --num-envs 256 --repeats 5

The first table has the vector environment beside two others with as many environments: a plain forward and
backward pass (`nn.Sequential`, `cross_entropy`, `backward`) over the samples of one step of all of them, and
single environments in Gymnasium's `SyncVectorEnv`. Environments are timed over whole episodes, with their
reset and the test metrics at their end; steps that only reset are not counted as steps.

The second table has the median step of the single environment, without the last of an episode, and what of it
is the gradient computation of its workers, the same call on a batch that lies ready.

The actions credit the honest workers, whom `info` names, so that no run diverges and ends early. All are
timed in turns in one process.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import torch
import tyro
from _timing import medians, plain_model, plain_pass, print_versions, verdict
from gymnasium.vector import SyncVectorEnv, VectorEnv
from rich.console import Console
from rich.table import Table

from byzgym import tasks

ENVIRONMENT = "ByzantineAggregation-v0"
ROUNDS = 100  # of an episode, by default
LEAST_OF_PLAIN, LEAST_OF_SYNC = 0.5, 4.0
MOST_MILLISECONDS = 1.0


def main(num_envs: int = 64, repeats: int = 5, threads: int = 2) -> None:
    """Time the environments.

    Args:
        num_envs: Environments in a vector.
        repeats: Turns (episodes) of every contestant; the medians are shown.
        threads: For torch.
    """
    torch.set_num_threads(threads)
    console = Console()
    print_versions(console, "gymnasium")
    console.print(vector_table(num_envs, repeats))
    console.print(single_table(repeats))


def vector_table(num_envs: int, repeats: int) -> Table:
    calls = {
        "vector": vector_episode(gym.make_vec(ENVIRONMENT, num_envs=num_envs)),
        "plain": plain_episode(num_envs),
        "sync": vector_episode(SyncVectorEnv([single_environment] * num_envs)),
    }
    seconds = medians(calls, repeats)
    rates = {label: num_envs * ROUNDS / taken for label, taken in seconds.items()}
    of_plain, of_sync = rates["vector"] / rates["plain"], rates["vector"] / rates["sync"]
    table = Table("", "steps per second", "vector is", "target", "reached", title=f"{num_envs} environments")
    table.add_row("vector environment", f"{rates['vector']:,.0f}", "", "", "")
    table.add_row(
        "plain forward and backward",
        f"{rates['plain']:,.0f}",
        f"{100 * of_plain:.0f} % of it",
        f">= {100 * LEAST_OF_PLAIN:.0f} %",
        verdict(of_plain >= LEAST_OF_PLAIN),
    )
    table.add_row(
        "SyncVectorEnv",
        f"{rates['sync']:,.0f}",
        f"{of_sync:.1f} times it",
        f">= {LEAST_OF_SYNC:g} times",
        verdict(of_sync >= LEAST_OF_SYNC),
    )
    return table


def single_table(repeats: int) -> Table:
    taken = step_and_gradients(single_environment(), repeats)
    step, gradients = (1e3 * statistics.median(seconds) for seconds in taken)
    table = Table("step ms", "its gradients ms", "the rest ms", "target", "reached", title="One environment")
    rest = step - gradients
    table.add_row(
        f"{step:.2f}",
        f"{gradients:.2f}",
        f"{rest:.2f}",
        f"< {MOST_MILLISECONDS:g} ms",
        verdict(rest < MOST_MILLISECONDS),
    )
    return table


def single_environment() -> gym.Env[Any, np.ndarray]:
    # The passive checker would only slow down what we compare with.
    return gym.make(ENVIRONMENT, disable_env_checker=True)


def vector_episode(env: VectorEnv[Any, Any, np.ndarray]) -> Callable[[], None]:
    """An episode of every environment, and the step that resets them (the mode "NextStep")."""
    env.reset(seed=0)

    def call() -> None:
        credits = np.ones(env.action_space.shape, dtype=np.float32)
        for _ in range(ROUNDS):
            _, _, terminated, truncated, info = env.step(credits)
            credits = honest(info)
        if terminated.any() or not truncated.all():
            raise RuntimeError("an episode has ended early, so fewer steps than counted were played")
        env.step(credits)

    return call


def step_and_gradients(env: gym.Env[Any, np.ndarray], episodes: int) -> tuple[list[float], list[float]]:
    """Seconds of single steps, all but the last of each episode, and of their gradients, in turns."""
    env.reset(seed=0)
    gradients = own_gradients(env.unwrapped.simulation)
    taken: tuple[list[float], list[float]] = ([], [])
    for _ in range(episodes):
        _, info = env.reset()
        over = False
        while not over:
            credits = honest(info)
            start = time.perf_counter()
            _, _, terminated, over, info = env.step(credits)
            middle = time.perf_counter()
            gradients()
            end = time.perf_counter()
            if terminated:
                raise RuntimeError("the run has diverged, so its episode was no ordinary one")
            if not over:
                taken[0].append(middle - start)
                taken[1].append(end - middle)
    return taken


def honest(info: dict[str, Any]) -> np.ndarray:
    return (~np.asarray(info["byzantine"], dtype=bool)).astype(np.float32)


def plain_episode(num_envs: int) -> Callable[[], None]:
    """As many plain passes as an episode has rounds, each over the samples of all environments."""
    task = tasks.make("digits")
    samples = num_envs * 10 * task.batch_size  # 10 workers by default
    x, y = (values[torch.arange(samples) % len(values)] for values in task.train)
    once = plain_pass(plain_model(64, 32, 10), x.flatten(1), y)

    def call() -> None:
        for _ in range(ROUNDS):
            once()

    return call


def own_gradients(simulation: Any) -> Callable[[], None]:
    """The gradient computation of one step of `simulation`, which has one environment."""
    settings = simulation.setup
    shape = (1, settings.num_workers, settings.batch_size)
    x, y = settings.task.train
    samples = torch.randint(len(y), shape, generator=torch.Generator().manual_seed(0))
    x, y = x[samples], y[samples]
    out = torch.empty(1, settings.num_workers, simulation.num_parameters)
    theta = simulation.server.theta.clone()
    generators = [torch.Generator()]
    return lambda: simulation.engine.gradients(theta, x, y, generators, out)


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
