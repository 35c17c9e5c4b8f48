"""Whole runs give the numbers that were recorded before.

The files in tests/golden/ hold short runs: credits and QV loss of every round, in the environments also
rewards and norms of observations, and at the end accuracy and two numbers of theta. After a change that
alters results on purpose, record them again and say so in CHANGELOG:

    python tests/test_golden.py --record    # writes tests/golden/*.json
    python tests/test_golden.py --hash      # prints a hash of all numbers of every run, to the last bit

Hashes are comparable only on one machine with one version of torch. To compare two checkouts there, run this
file with PYTHONPATH set to each of them, and compare the output with `diff`.
"""

import argparse
import hashlib
import json
import platform
import sys
from functools import partial
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import nn

import byzgym
from byzgym import agents, aggregation, tasks
from byzgym.simulation import Simulation

FOLDER = Path(__file__).parent / "golden"
ID = "ByzantineAggregation-v0"

pytestmark = pytest.mark.skipif(
    platform.machine().lower() not in ("x86_64", "amd64"),
    reason="recorded on x86; on other processors torch draws other random numbers",
)


def play(simulation, policy):
    """Play one round, and return its credits [E, n], or None where the policy has none."""
    view = simulation.view
    if hasattr(policy, "decide"):
        decision = policy.decide(view)
        simulation.apply(decision)
        return decision.credits
    # Policies of byzgym 0.1.0.
    if not policy.linear:
        simulation.apply(policy.aggregate(view))
        return None
    credits = policy.credits(view)
    simulation.apply(aggregation.combine(credits, view.gradients), credits)
    return credits


class Trajectory:
    """The numbers of a run: rounded, and hashed as they are."""

    def __init__(self):
        self.numbers = {}
        self._hash = hashlib.sha256()

    def add(self, name, values):
        """Append ``values`` (of one round) to the list ``name``. None stands for no values."""
        self.numbers.setdefault(name, []).append(None if values is None else _rounded(self.hash(values)))

    def hash(self, values):
        """Only hash ``values``, and return them as an array."""
        exact = np.asarray(values, dtype=np.float64) + 0.0  # turns -0.0 into 0.0
        self._hash.update(exact.tobytes())
        return exact

    def add_vectors(self, name, vectors):
        """Append the norms of ``vectors`` [..., d], and how far they point along a fixed vector."""
        exact = self.hash(vectors)
        norms = np.linalg.norm(exact, axis=-1)
        fixed = np.cos(np.arange(exact.shape[-1]))
        products = exact @ fixed / np.where(norms > 0, norms, 1)
        self.numbers.setdefault(f"{name}_norm", []).append(_rounded(norms))
        self.numbers.setdefault(f"{name}_direction", []).append(_rounded(products))

    def hexdigest(self):
        return self._hash.hexdigest()


def _rounded(values):
    """Nested lists of numbers with six digits."""
    if values.ndim:
        return [_rounded(row) for row in values]
    number = float(f"{values:.6g}")
    return int(number) if number.is_integer() and abs(number) < 1e6 else number


# How a run is played


def simulate(policy, rounds=8, num_envs=4, seed=0, learning_rate=0.2, **arguments):
    """Play ``rounds`` rounds of a simulation with a policy, given by its name and parameters."""
    arguments |= {"rounds": rounds, "learning_rate": learning_rate}
    simulation = Simulation.make(num_envs=num_envs, seed=seed, **arguments)
    name, parameters = policy
    special = {"simulation": simulation} if name == "oracle" else {}
    agent = agents.make(name, **parameters, **special)
    agent.reset()
    run = Trajectory()
    for _ in range(rounds):
        run.hash(simulation.byzantine)
        run.hash(simulation.gradients)
        run.add("credits", play(simulation, agent))
        run.add("qv_loss", simulation.qv_loss())
    run.add("accuracy", simulation.evaluate()["accuracy"])
    run.add_vectors("theta", simulation.view.theta)
    return run


def play_single(policy, steps=8, seed=0, **arguments):
    """Play ``steps`` steps of the single environment, and begin a new episode where one ends."""
    env = gym.make(ID, **arguments)
    predict = _predictor(policy, env)
    run = Trajectory()
    observation, info = env.reset(seed=seed)
    begins = True
    for _ in range(steps):
        action = predict(observation, begins)
        observation, reward, terminated, truncated, info = env.step(action)
        _add_step(run, observation, reward, terminated, info)
        run.add("accuracy", info.get("accuracy"))
        begins = terminated or truncated
        if begins:
            run.hash(env.unwrapped.view.theta)
            observation, info = env.reset()
    run.add_vectors("theta", env.unwrapped.view.theta)
    return run


def play_vector(policy, mode, steps=8, num_envs=3, seed=0, **arguments):
    """Play ``steps`` steps of the native vector environment in an autoreset mode."""
    env = gym.make_vec(ID, num_envs=num_envs, autoreset_mode=mode, **arguments)
    predict = _predictor(policy, env)
    run = Trajectory()
    observation, info = env.reset(seed=seed)
    begins, done = np.ones(num_envs, dtype=bool), np.zeros(num_envs, dtype=bool)
    for _ in range(steps):
        observation, reward, terminated, truncated, info = env.step(predict(observation, begins))
        _add_step(run, observation, reward, terminated, info)
        run.add("accuracy", info.get("final_info", info).get("accuracy"))
        run.hash(env.unwrapped.view.theta)
        done, reset = terminated | truncated, done
        begins = done if mode == "SameStep" else reset  # NextStep resets one step after the end
    run.add_vectors("theta", env.unwrapped.view.theta)
    return run


def _predictor(policy, env):
    """Return a function from observation and episode starts to actions, random ones without a policy."""
    if policy is None:
        generator = np.random.default_rng(0)
        return lambda observation, begins: generator.random(env.action_space.shape, dtype=np.float32)
    name, parameters = policy
    agent = agents.make(name, **parameters).bind(env)
    return lambda observation, begins: agent.predict(observation, episode_start=np.atleast_1d(begins))[0]


def _add_step(run, observation, reward, terminated, info):
    parts = observation if isinstance(observation, dict) else {"observation": observation}
    for name in sorted(parts):
        exact = run.hash(parts[name])
        batch = exact.reshape(len(np.atleast_1d(reward)), -1)
        run.add(f"{name}_norm", np.linalg.norm(batch, axis=1))
    run.add("reward", reward)
    run.add("terminated", terminated)
    run.add("credits", info["credits"])
    run.add("qv_loss", info["qv_loss"])
    run.hash(info["byzantine"])
    run.hash(info["rejected"])


def apply_rule(policy, scale=1.0, shape=(2, 11, 40)):
    """Apply a rule to random submissions, each noisier than the one before."""
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(7))
    submissions = (0.2 + noise * torch.linspace(1, 1.5, shape[1])[:, None]) * scale
    name, parameters = policy
    rule = aggregation.make(name, **parameters)
    run = Trajectory()
    run.add_vectors("aggregate", rule(submissions))
    run.add("credits", rule.credits(submissions) if getattr(rule, "linear", False) else None)
    return run


# What is played

RULES = {
    "mean": 3,
    "krum": 3,
    "multi_krum": 3,
    "median": 3,
    "trimmed_mean": 3,
    "mean_around_median": 3,
    "geometric_median": 3,
    "medoid": 3,
    "faba": 3,
    "bulyan": 1,  # n >= 4f + 3
    "brute_force": 3,
    "norm_clipping": 3,
}
POLICIES = {name: (name, {"num_byzantine": f}) for name, f in RULES.items()} | {
    "norm_clipping": ("norm_clipping", {"num_byzantine": 3, "max_norm": 0.4}),
    "gaa": ("gaa", {}),
    "gaa window=3": ("gaa", {"window": 3}),
    "gaa hidden=8": ("gaa", {"hidden": (8,)}),
    "uniform": ("uniform", {}),
    "random": ("random", {"seed": 5}),
    "fixed": ("fixed", {"credits": [1, 2, 3, 4, 5, 0, 0, 0, 0, 5]}),
    "oracle": ("oracle", {}),
}
ATTACKS = (
    *("gaussian", "sign_flip", "ipm", "alie", "random"),
    *("label_flip", "bit_flip", "gambler", "omniscient", "none"),
)
GAA, ORACLE, MEDIAN = POLICIES["gaa"], POLICIES["oracle"], POLICIES["median"]


def _narrow_cnn(input_shape, num_classes):
    layers = nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, num_classes)
    return nn.Sequential(*layers)


def _simulate_narrow_cnn(**arguments):
    if "narrow_cnn" not in tasks.models.names():
        tasks.models.register("narrow_cnn", _narrow_cnn)
    return simulate(model="narrow_cnn", **arguments)


OVERFLOWING = {"name": "gambler", "factor": 1e40}  # some rows are not finite, and rejected
SETTINGS = {
    "default with 7 of 10 Byzantine": partial(simulate, GAA, seed=11),
    "f drawn": partial(simulate, ORACLE, num_byzantine=(1, 8), attack="sign_flip"),
    "randomized roles": partial(
        simulate, ORACLE, attack="ipm", roles={"name": "randomized", "period": 2, "probability": 0.5}
    ),
    "fluctuating roles": partial(simulate, ORACLE, attack="alie", roles="fluctuating"),
    "pretense": partial(simulate, MEDIAN, attack="sign_flip", roles={"name": "pretense", "until": 4}),
    "dirichlet and momentum": partial(
        simulate,
        GAA,
        attack="ipm",
        partition={"name": "dirichlet", "alpha": 0.5},
        momentum=0.5,
        worker_momentum=0.9,
    ),
    "shards and cosine": partial(
        simulate,
        MEDIAN,
        attack={"name": "alie", "z": 1.5},
        partition="shards",
        learning_rate={"initial": 0.2, "schedule": "cosine"},
        qv_source="train",
    ),
    "rejected rows, gaa": partial(simulate, GAA, rounds=5, attack=OVERFLOWING, num_byzantine=3),
    "rejected rows, multi_krum": partial(simulate, POLICIES["multi_krum"], rounds=5, attack=OVERFLOWING),
    "rejected rows, median": partial(simulate, MEDIAN, rounds=5, attack=OVERFLOWING),
    "rejected rows, random": partial(simulate, POLICIES["random"], rounds=5, attack=OVERFLOWING),
    "secure groups": partial(simulate, GAA, num_byzantine=2, attack="sign_flip", secure_group_size=2),
    "breast_cancer": partial(simulate, GAA, task="breast_cancer", model="softmax", attack="sign_flip"),
    "xie_cnn": partial(
        simulate,
        GAA,
        rounds=3,
        num_envs=2,
        model="xie_cnn",
        num_workers=4,
        num_byzantine=1,
        batch_size=4,
        attack="sign_flip",
    ),
    "registered cnn": partial(_simulate_narrow_cnn, policy=GAA, attack="ipm"),
    "wide mlp": partial(
        simulate, GAA, rounds=4, num_envs=2, model="mlp:256", attack="ipm", num_byzantine=3
    ),  # more than 16,384 parameters
}
SHORT = {"rounds": 4}
ENDING = {**SHORT, "attack": ["omniscient", "alie", "gaussian"]}  # some episodes end early
HALF = {**SHORT, "num_byzantine": 3}
ENVIRONMENTS = {
    "single, gaa": partial(play_single, GAA, **SHORT),
    "single, gaa window=3": partial(play_single, POLICIES["gaa window=3"], seed=4, **SHORT),
    "single, krum": partial(play_single, POLICIES["krum"], seed=1, observation="all", **HALF),
    "single, oracle": partial(play_single, ORACLE, seed=2, evaluate_every=2, **SHORT),
    "single, random actions": partial(play_single, None, seed=3, action="null_slot", **ENDING),
}
for _mode in ("NextStep", "SameStep"):
    ENVIRONMENTS |= {
        f"{_mode}, gaa": partial(play_vector, GAA, _mode, **SHORT),
        f"{_mode}, gaa window=3": partial(play_vector, POLICIES["gaa window=3"], _mode, seed=4, **SHORT),
        f"{_mode}, geometric_median": partial(
            play_vector, POLICIES["geometric_median"], _mode, seed=8, observation="all", **HALF
        ),
        f"{_mode}, random actions": partial(play_vector, None, _mode, seed=3, action="null_slot", **ENDING),
    }
CASES = {
    "rules": {
        **{name: partial(apply_rule, POLICIES[name]) for name in RULES},
        **{f"{name}, huge": partial(apply_rule, POLICIES[name], scale=1e25) for name in RULES},
        **{f"{name}, long": partial(apply_rule, POLICIES[name], shape=(1, 9, 30_000)) for name in RULES},
    },
    "policies": {name: partial(simulate, policy, num_byzantine=3) for name, policy in POLICIES.items()},
    "attacks": {
        f"{attack}, {name}": partial(
            simulate, POLICIES[name], rounds=5, seed=20, attack=attack, num_byzantine=3
        )
        for attack in ATTACKS
        for name in ("gaa", "krum", "median")
    },
    "settings": SETTINGS,
    "environments": ENVIRONMENTS,
}


# What is compared

# GAA's gradients for a rejected row are zero but for rounding, which Adam magnifies.
SENSITIVE = ("rejected rows, gaa",)


@pytest.mark.parametrize(("group", "case"), [(group, case) for group in CASES for case in CASES[group]])
def test_run_is_as_recorded(group, case):
    recorded = json.loads((FOLDER / f"{group}.json").read_text())[case]
    numbers = CASES[group][case]().numbers
    assert numbers.keys() == recorded.keys()
    rtol = 1e-2 if case in SENSITIVE else 1e-4
    # A sample on the edge between two classes may count or not; a reward is a small difference of losses.
    special = {"accuracy": 0.003, "reward": 1e-5}
    for name, values in recorded.items():
        expected, actual = _as_arrays(values), _as_arrays(numbers[name])
        assert len(expected) == len(actual)
        for number, (one, other) in enumerate(zip(actual, expected, strict=True)):
            message = f"{name}, round {number}"
            np.testing.assert_allclose(one, other, rtol=rtol, atol=special.get(name, 1e-6), err_msg=message)


def _as_arrays(values):
    return [np.array(value, dtype=np.float64) for value in values]  # None becomes NaN


def record():
    FOLDER.mkdir(exist_ok=True)
    for group, cases in CASES.items():
        runs = {case: make().numbers for case, make in cases.items()}
        lines = [f"{json.dumps(case)}:{json.dumps(run, separators=(',', ':'))}" for case, run in runs.items()]
        (FOLDER / f"{group}.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


def print_hashes():
    for group, cases in CASES.items():
        for case, make in cases.items():
            print(make().hexdigest()[:16], group, case, sep="\t")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--record", action="store_true", help="write tests/golden/*.json")
    what.add_argument("--hash", action="store_true", help="print a hash of every run")
    torch.set_num_threads(1)
    print(f"byzgym from {byzgym.__file__}, torch {torch.__version__}", file=sys.stderr)
    record() if parser.parse_args().record else print_hashes()
