"""Rules and objects from outside as agents: what they are told, what they may return."""

import gymnasium as gym
import pytest
import torch
from agent_cases import ID, TINY, assert_on_simplex, make, normal_view, view_of

from byzgym import agents, aggregation
from byzgym.aggregation import Decision, NotLinearError

LARGEST = {  # the largest f that each accepts for n = 10, at most 7
    "brute_force": 4,
    "bulyan": 1,
    "faba": 4,
    "foundation": 4,
    "geometric_median": 4,
    "krum": 3,
    "mean": 7,
    "mean_around_median": 4,
    "median": 4,
    "medoid": 4,
    "multi_krum": 3,
    "norm_clipping": 7,
    "trimmed_mean": 4,
}


class Last:
    """All credit for the last worker."""

    resets = 0

    def reset(self):
        self.resets += 1

    def credits(self, view):
        return torch.eye(view.num_workers)[-1].repeat(view.num_envs, 1)


@pytest.mark.parametrize("name", LARGEST)
def test_a_rule_is_told_the_largest_f_it_accepts(name):
    view, agent = normal_view(num_workers=10), agents.make(name, num_byzantine=7)
    assert agent.policy is None
    update = agent.aggregate(view)
    assert agent.policy.num_byzantine == LARGEST[name]
    rule = aggregation.make(name, num_byzantine=LARGEST[name])
    torch.testing.assert_close(update, rule(view.gradients))
    assert agent.linear == rule.linear


def test_f_follows_the_number_of_submissions():
    agent = agents.make("krum", num_byzantine=4)
    for num_workers, expected in ((10, 3), (20, 4), (7, 2)):
        agent.credits(normal_view(num_workers=num_workers))
        assert agent.policy.num_byzantine == expected


@pytest.mark.parametrize(
    ("given", "env_f", "expected"), [(None, 1, 1), (None, 7, 3), (2, 7, 2), (None, [1, 2], 2)]
)
def test_bind_and_build_tell_the_environments_f(given, env_f, expected):
    env = gym.make(ID, **{**TINY, "num_workers": 10, "num_byzantine": env_f})
    spec = {"name": "krum"} if given is None else {"name": "krum", "num_byzantine": given}
    built = agents.build(spec, env.unwrapped.simulation)
    bound = agents.make_from(spec).bind(gym.make(ID, **TINY)).bind(env)  # bound anew, it is told anew
    assert bound.policy.num_byzantine == built.policy.num_byzantine == expected


def test_an_object_with_credits():
    last = Last()
    agents.register("last", lambda: last)
    agent, view = agents.make("last"), normal_view()
    assert agent.policy is last
    torch.testing.assert_close(agent.aggregate(view), view.gradients[:, -1])
    agent.reset(torch.tensor([True, False]))
    assert last.resets == 1
    rejected = torch.zeros(2, 10, dtype=torch.bool)
    rejected[:, -1] = True
    credits = agent.credits(view_of(view.gradients.masked_fill(rejected[..., None], 0), rejected))
    assert_on_simplex(credits)
    assert (credits[:, -1] == 0).all()


def test_an_object_with_aggregate():
    class Largest:
        def aggregate(self, view):
            return view.gradients.max(1).values

    agents.register("largest", Largest)
    agent, view = agents.make("largest"), normal_view()
    assert not agent.linear
    assert torch.equal(agent.aggregate(view), view.gradients.max(1).values)
    with pytest.raises(NotLinearError):
        agent.credits(view)
    agent.reset()


def test_an_object_with_decide_and_reset():
    class Mine:
        began = None

        def decide(self, view):
            return Decision(view.gradients.sum(1))

        def reset(self, envs=None):
            self.began = envs

    mine = Mine()
    agent, view = agents.make_from(mine), normal_view()
    assert torch.equal(agent.decide(view).update, view.gradients.sum(1))
    agent.reset(torch.tensor([True, False]))
    assert mine.began.tolist() == [True, False]


@pytest.mark.parametrize(
    ("given", "error"),
    [
        (None, TypeError),
        (torch.full((2, 3), 0.5), ValueError),
        (torch.full((6,), 1 / 6), ValueError),
        (torch.tensor([[2.0, -1.0, 0, 0, 0, 0]] * 2), ValueError),
        (torch.full((2, 6), 0.5), ValueError),
        (torch.zeros(2, 6).to_sparse(), TypeError),
        (torch.full((2, 6), torch.nan), ValueError),
    ],
    ids=["None", "too few", "one environment", "negative", "sum of three", "sparse", "NaN"],
)
def test_what_are_no_credits_is_refused(given, error):
    class Careless:
        def credits(self, view):
            return given

    agents.register("careless", Careless)
    with pytest.raises(error, match="credits must") as caught:
        agents.make("careless").decide(make().view)
    assert caught.value.__notes__ == ["raised by policy 'careless'"]


def test_a_reset_that_fails_is_named():
    class Forgetful:
        def credits(self, view):
            return view.previous_credits

        def reset(self, envs=None):
            raise KeyError("bug")

    with pytest.raises(KeyError) as caught:
        agents.make_from(Forgetful()).reset()
    assert caught.value.__notes__ == ["raised by policy 'Forgetful'"]


def test_factories_are_told_what_they_ask_for():
    class Asking(Last):
        reference = True

        def __init__(self, num_byzantine, simulation=None, other=1):
            self.told = num_byzantine, simulation, other

    agents.register("asking", Asking)
    simulation = make(num_workers=10, num_byzantine=(1, 7))
    assert agents.build("asking:other=2", simulation).policy.told == (7, simulation, 2)
    assert agents.build({"name": "asking", "num_byzantine": 3}, simulation).policy.told[0] == 3
    assert agents.make("asking").reference
    with pytest.raises(TypeError, match="num_byzantine"):
        agents.make("asking").decide(simulation.view)
