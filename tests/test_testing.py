"""All that is registered passes the checks of `byzgym.testing`, and broken things are told what is wrong."""

import gymnasium as gym
import numpy as np
import pytest
import torch

from byzgym import agents, aggregation, attacks, tasks
from byzgym.aggregation import Decision, ServerRule, Weighting
from byzgym.envs import ByzantineAggregationEnv
from byzgym.testing import (
    CheckError,
    check_attack,
    check_env,
    check_policy,
    check_roles,
    check_rule,
    check_task,
)

ID = "ByzantineAggregation-v0"
REGISTERED = [
    *[(check_rule, name) for name in aggregation.names()],
    *[(check_attack, name) for name in attacks.names() if name != "adaptive"],  # a long search by default
    (check_attack, "adaptive:against=mean,evaluations=3,task=synthetic,rounds=2,batch_size=4"),
    # Against the mean, more evaluations would make the training explode, in which last bits grow.
    *[(check_attack, f"{name}:optimize=True,evaluations=3") for name in ("alie", "ipm", "one_coordinate")],
    *[(check_attack, f"leaked_qv:leak={leak}") for leak in ("labels", "distribution")],
    *[(check_roles, name) for name in attacks.roles.names() if name != "schedule"],  # needs a schedule
    (check_roles, "schedule:changes=[[0, [1]], [2, [0, 3]], [4, []]]"),
    *[(check_policy, name) for name in agents.names() if name not in ("fixed", "model")],
    (check_policy, "fixed:credits=[1, 0, 2, 0, 0, 1]"),
    *[(check_task, name) for name in ("breast_cancer", "digits", "synthetic")],  # the others read files
]


@pytest.mark.parametrize(("check", "name"), REGISTERED)
def test_registered(check, name):
    check(name)


@pytest.mark.parametrize("action", ["credits", "null_slot", "update", "rule"])
def test_environments(action):
    rules = ["median", "krum"] if action == "rule" else None
    check_env(gym.make(ID, task="synthetic", rounds=3, action=action, rules=rules))


FORMS = [
    (check_rule, ["krum:num_byzantine=1", {"name": "mean"}, aggregation.make("mean"), lambda v: v.mean(-2)]),
    (check_attack, ["ipm:epsilon=2", {"name": "ipm"}, attacks.make("zero"), lambda v, byzantine, _: -v]),
    (
        check_policy,
        ["norm_clipping:max_norm=1", {"name": "mean"}, aggregation.make("mean"), agents.make("uniform")],
    ),
    (check_task, ["synthetic:num_classes=3", {"name": "synthetic"}, tasks.make("synthetic")]),
    (check_env, [ID, gym.spec(ID), gym.make(ID, attack=attacks.make("zero"))]),  # the last spec is no JSON
]


@pytest.mark.parametrize(("check", "forms"), FORMS)
def test_forms_of_a_spec(check, forms):
    for form in forms:
        check(form)


class Credits(Weighting):
    """A weighting from a function."""

    def __init__(self, function):
        super().__init__()
        self._credits = function

    def _credits(self, gradients): ...


class Keeping(ServerRule):
    """The sum of the means so far, where no snapshot sees it."""

    needs = frozenset({"memory"})
    total = 0.0

    def _decide(self, view):
        self.total = view.gradients.mean(1) + (self.total if view.round[0] > 0 else 0)
        return Decision(self.total)


class Breaking(ServerRule):
    """NaN from round 3 on."""

    needs = frozenset({"memory"})

    def _decide(self, view):
        count = view.memory.read("count")
        view.memory.write("count", count + 1)
        return Decision(view.gradients.mean(1).where(count[:, None] < 3, torch.nan))


class Generous(ServerRule):
    linear = True

    def _decide(self, view):
        return Decision(view.gradients.mean(1), torch.full_like(view.previous_credits, 0.05))


class Writing(attacks.Attack):
    def corrupt(self, gradients, byzantine, context):
        return gradients.mul_(-1)


class Peeking(attacks.Attack):
    reads_own = False

    def corrupt(self, gradients, byzantine, context):
        return -gradients


class Counting:
    """Keeps the number of its calls where neither a reset nor a snapshot sees it."""

    calls = 0

    def __call__(self, gradients, byzantine, context):
        self.calls += 1
        return gradients * self.calls


class Replaying:
    def __call__(self, gradients, byzantine, context):
        last = gradients if context.round[0] == 0 else self.last
        self.last = gradients.clone()
        return last


class Deciding:
    def __init__(self, function):
        self.decide = function


class Aggregating:
    def __init__(self, function):
        self.aggregate = function


class Continuing:
    """All copies count in one list."""

    def __init__(self, calls):
        self.calls = calls

    def __deepcopy__(self, memo):
        return type(self)(self.calls)

    def aggregate(self, view):
        self.calls.append(1)
        return view.gradients.mean(1) * len(self.calls)


class Sharing(Continuing):
    def reset(self):
        self.calls.clear()


class CountingRoles:
    """Changes its mind in a way that neither a reset nor a snapshot sees."""

    calls = 0

    def __call__(self, assigned, current, context):
        self.calls += 1
        return assigned if self.calls % 3 else ~assigned


BROKEN = [
    (check_roles, "an episode with the same seed differs", CountingRoles()),
    (check_roles, "it must return a bool mask", lambda assigned, current, context: assigned.float()),
    (check_roles, "it writes into its input", lambda assigned, current, context: assigned.logical_not_()),
    (check_rule, "it writes into its input", lambda v: v.mul_(2).mean(-2)),
    (check_rule, "the aggregate must have shape [..., d], got [3, 11]", lambda v: v.mean(-1)),
    (check_rule, "the aggregate must be a tensor, got list", lambda v: v.mean(-2).tolist()),
    (check_rule, "the aggregate must have the type of the submissions", lambda v: v.mean(-2).double()),
    (check_rule, "the aggregate depends on the order of the workers", lambda v: v[..., 0, :]),
    (check_rule, "it uses a global random generator", lambda v: v.mean(-2) + torch.rand(())),
    (check_rule, "a batch differs from a loop", lambda v: v.mean(-2) / v.norm()),
    (check_rule, "ZeroDivisionError: division by zero", lambda v: 1 / 0),
    (check_rule, "credits must have shape [3, 11], got [3, 2]", Credits(lambda v: v.new_ones(3, 2) / 2)),
    (check_rule, "credits must lie on the simplex", Credits(lambda v: v.new_ones(v.shape[:-1]))),
    (
        check_rule,
        "the aggregate of finite submissions must be finite: it returned NaN",
        lambda v: v.mean(-2) * torch.nan,
    ),
    (check_rule, "must be finite: it returned infinity", lambda v: v.mean(-2) / 0),
    (
        check_rule,
        "a rejected submission spoils the aggregate: it returned NaN",  # ten rows are left
        lambda v: v.mean(-2) if v.shape[-2] == 11 else v.mean(-2) * torch.nan,
    ),
    (
        check_rule,
        "a batch differs from a loop: it returned NaN in one of them",
        lambda v: v.mean(-2) if v.dim() > 2 else v.mean(-2) * torch.nan,
    ),
    (
        check_rule,
        "credits must lie on the simplex: it returned NaN",
        Credits(lambda v: v.new_full(v.shape[:-1], torch.nan)),
    ),
    (check_rule, "the update must be finite in round 3: it returned NaN", Breaking()),
    (
        check_policy,
        "the update must be finite in round 0: it returned NaN",
        Aggregating(lambda view: view.theta * torch.nan),
    ),
    (check_rule, "it keeps something outside view.memory", Keeping()),
    (check_rule, "a rejected submission gets credit", Generous()),
    (check_attack, "it writes into its input", Writing()),
    (check_attack, "reads_own is False, but Byzantine rows are read", Peeking()),
    (
        check_attack,
        "must return a tensor of real numbers of shape (3, 6, ",
        lambda v, byzantine, _: v[..., :3],
    ),
    (check_attack, "it uses a global random generator", lambda v, byzantine, _: torch.randn_like(v)),
    (check_attack, "an episode with the same seed differs", Counting()),
    (check_attack, "a restored snapshot goes on otherwise: keep state in context.memory", Replaying()),
    (check_attack, "a batch differs from a loop", lambda v, byzantine, _: -v.mean((0, 1), keepdim=True)),
    (check_policy, "it writes into the view", Deciding(lambda view: Decision(view.theta.mul_(2)))),
    (check_policy, "it uses a global random", Deciding(lambda view: Decision(torch.randn_like(view.theta)))),
    (
        check_policy,
        "update must have shape [3, 195], got [3, 6]",
        Deciding(lambda view: Decision(view.gradients.mean(2))),
    ),
    (check_policy, "decide must return a Decision", Deciding(lambda view: view.theta)),
    (check_policy, "linear must say", Deciding(lambda view: Decision(view.theta))),
    (check_policy, "a rejected submission gets credit", Generous()),
    (check_policy, "after reset() an episode with the same seed differs", Continuing([])),
    (check_policy, "a deep copy goes on otherwise", Sharing([])),
]


@pytest.mark.global_rng
@pytest.mark.parametrize(("check", "problem", "thing"), BROKEN, ids=[problem for _, problem, _ in BROKEN])
def test_broken(check, problem, thing):
    with pytest.raises(CheckError) as error:
        check(thing)
    assert problem in str(error.value)
    assert str(error.value).startswith(check.__name__.removeprefix("check_"))


def test_policy_that_asks_for_the_simulation():
    class Curious:
        def __init__(self, simulation=None, weights=()):
            self.simulation = simulation

        def aggregate(self, view):
            return view.gradients.mean(1)

    agents.register("curious", Curious)
    with pytest.raises(
        CheckError, match=r"policy curious: .* asks for the simulation.*: set reference = True"
    ):
        check_policy("curious")
    with pytest.raises(CheckError, match=r"its parameters change when written to JSON"):
        check_policy({"name": "curious", "weights": (1, 2)})
    Curious.reference = True
    check_policy("curious")


@pytest.mark.global_rng
def test_broken_tasks():
    def task(x):
        y = torch.arange(60) % 3
        return tasks.Task(train=(x, y), test=(x, y), num_classes=3, model="softmax", batch_size=4)

    tasks.register("drawn", lambda: task(torch.rand(60, 4)))
    with pytest.raises(CheckError, match=r"task drawn: it uses a global random generator"):
        check_task("drawn")
    seeds = iter((1, 2))
    tasks.register("new", lambda: task(torch.full((60, 4), next(seeds) / 2)))
    with pytest.raises(CheckError, match=r"task new: made twice, its data differ"):
        check_task("new")


def test_broken_environments():
    class Unseeded(ByzantineAggregationEnv):
        def reset(self, *, seed=None, options=None):
            return super().reset(options=options)

    class Unrewarded(ByzantineAggregationEnv):
        def step(self, action):
            observation, _, *rest = super().step(action)
            return observation, np.inf, *rest

    with pytest.raises(CheckError, match=r"environment Unseeded: AssertionError"):  # from Gymnasium
        check_env(Unseeded(task="synthetic"))
    with pytest.raises(CheckError, match=r"environment Unrewarded: a reward is not finite"):
        check_env(Unrewarded(task="synthetic"))
