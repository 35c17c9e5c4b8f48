"""adaptive: the search finds what harms, is reproducible, and leaves the victim's run alone."""

import copy
import json

import pytest
import torch

from byzgym import agents, attacks, specs
from byzgym.adaptive import KNOWN, Adaptive, SearchResult, search
from byzgym.attacks import AttackContext, Mixture
from byzgym.attacks.mixture import SIZE
from byzgym.simulation import Simulation
from byzgym.testing import check_attack

TINY = {"task": "synthetic", "rounds": 4, "batch_size": 4}


@pytest.fixture
def searches(monkeypatch):
    """The numbers (n, f) of all searches."""
    seen = []

    def counted(**arguments):
        seen.append((arguments["num_workers"], arguments["num_byzantine"]))
        return search(**arguments)

    monkeypatch.setattr("byzgym.adaptive.search", counted)
    return seen


def new_attack(policy="mean", **arguments):
    """An attack on a policy of a name that no test before has used."""
    new_attack.number = getattr(new_attack, "number", 0) + 1
    name = f"victim{new_attack.number}"
    agents.register(name, lambda: agents.make(policy))
    return Adaptive(name, **{"evaluations": 2, **TINY, **arguments})


def points_of(simulation):
    return simulation.workers.memories[1].read("point", SIZE)


def accuracies(policy, points, seeds, **setting):
    """The mean final test accuracy of a policy under each of the points."""
    simulation = Simulation.make(
        len(points) * len(seeds),
        seed=0,
        per_environment=[{"attack": Mixture(point)} for point in points for _ in seeds],
        **setting,
    )
    agent = agents.build(policy, simulation)
    simulation.reset(list(seeds) * len(points))
    agent.reset()
    for _ in range(simulation.setup.rounds):
        simulation.apply(agent.decide(simulation.view))
    return simulation.evaluate()["accuracy"].view(len(points), len(seeds)).mean(1).tolist()


def test_it_finds_what_harms_more_than_other_points_on_other_seeds():
    """norm_clipping withstands most points; the search must find one that it does not withstand."""
    setting = {"task": "synthetic", "rounds": 15, "batch_size": 8}
    result = search("norm_clipping", 10, 4, evaluations=40, seed=1, **setting)
    random = torch.rand(8, SIZE, generator=torch.Generator().manual_seed(5)).tolist()
    points = [result.best(), KNOWN[0], *random]
    best, *others = accuracies("norm_clipping", points, [1, 2, 3], **setting, num_workers=10, num_byzantine=4)
    assert best < sorted(others)[1]
    assert result.damages[20:].mean() > result.damages[10:20].mean()  # children, random points


def test_the_damage_is_the_error_rate_of_the_final_model():
    """Under sign_flip with most workers Byzantine the mean learns the opposite, and the oracle learns."""
    setting = {"evaluations": 1, "task": "synthetic", "rounds": 30, "batch_size": 8}
    assert search("mean", 10, 8, **setting).damages[0] > 0.6
    damage = search("oracle", 10, 8, **setting).damages[0]
    accuracy = accuracies("oracle", [KNOWN[0]], [1, 2, 3], task="synthetic", rounds=30, batch_size=8)[0]
    assert damage == pytest.approx(1 - accuracy, abs=0.15)


def test_the_seed_decides():
    first, again = (search("mean", 5, 2, evaluations=25, **TINY) for _ in range(2))
    other = search("mean", 5, 2, evaluations=25, seed=1, **TINY)
    assert torch.equal(first.points, again.points)
    assert torch.equal(first.damages, again.damages)
    assert first.points.shape == (25, SIZE)
    assert torch.equal(first.points[: len(KNOWN)], other.points[: len(KNOWN)])
    assert not torch.equal(first.points[len(KNOWN) :], other.points[len(KNOWN) :])
    assert ((first.points >= 0) & (first.points <= 1)).all()


def test_the_best_so_far():
    result = search("mean", 6, 2, evaluations=12, **TINY)
    for last in range(1, 13):  # each point has been played once
        place = int(result.damages[:last].argmax())
        assert result.best(last) == pytest.approx(result.points[place].tolist(), abs=1e-6)
    assert result.best() == result.best(12)
    assert specs.parse(specs.label({"name": "mixture", "point": result.best()}))["point"] == result.best()
    for bad in (0, 13):
        with pytest.raises(ValueError, match="evaluations"):
            result.best(bad)


def test_a_point_that_was_lucky_once_is_not_the_best():
    generator = torch.Generator().manual_seed(0)
    steady, lucky, other = torch.rand(3, SIZE, generator=generator).round(decimals=4)
    points = torch.stack([steady, lucky, other, steady, other, steady, other])
    result = SearchResult(points, torch.tensor([0.4, 0.55, 0.5, 0.6, 0.3, 0.5, 0.5]))
    assert torch.equal(torch.tensor(result.best()), steady)
    assert torch.equal(torch.tensor(result.best(3)), lucky)


def test_the_best_points_are_played_again():
    """A fifth of 100 evaluations is two rounds of ten finalists."""
    result = search("mean", 5, 2, evaluations=100, **TINY)
    damage = dict(zip(map(tuple, result.points[:80].tolist()), result.damages[:80].tolist(), strict=True))
    assert len(damage) == 80
    assert torch.equal(result.points[80:90], result.points[90:])
    finalists = [damage[tuple(point)] for point in result.points[80:90].tolist()]
    assert finalists == pytest.approx(sorted(damage.values())[:-11:-1])
    assert not torch.equal(result.damages[80:90], result.damages[90:])


def test_it_plays_the_best_point():
    attack = new_attack(evaluations=5)
    best = search(attack.against, 6, 2, evaluations=5, **TINY).best()
    arguments = {**TINY, "num_workers": 6, "num_byzantine": 2, "num_envs": 2, "seed": 3}
    adaptive, fixed = (Simulation.make(attack=a, **arguments) for a in (attack, Mixture(best)))
    for _ in range(4):
        assert torch.equal(adaptive.gradients, fixed.gradients)
        for simulation in (adaptive, fixed):
            simulation.apply(simulation.gradients.mean(1))


def test_one_search_for_each_n_and_f_in_all_objects(searches):
    attack = new_attack()
    for twin in (attack, copy.deepcopy(attack), Adaptive(attack.against, evaluations=2, **TINY)):
        for n, f in ((6, 2), (6, 3), (5, 2)):
            simulation = Simulation.make(
                2, seed=0, attack=twin, **{**TINY, "num_workers": n, "num_byzantine": f}
            )
            simulation.reset([5, 6])
    assert searches == [(6, 2), (6, 3), (5, 2)]
    agents.register(attack.against, lambda: agents.make("krum"))
    Simulation.make(seed=0, attack=attack, **TINY, num_workers=6, num_byzantine=2)
    assert len(searches) == 4  # the policy is another one now


def test_environments_of_a_batch_have_the_point_for_their_f(searches):
    attack = new_attack(evaluations=12)
    arguments = {**TINY, "num_workers": 6, "attack": attack}
    numbers = [{"num_byzantine": f} for f in (0, 2, 5, 2)]
    batch = Simulation.make(4, seed=0, per_environment=numbers, **arguments)
    assert sorted(searches) == [(6, 2), (6, 5)]
    for env, number in enumerate(numbers):
        single = Simulation.make(1, seed=env, **arguments, **number)
        torch.testing.assert_close(points_of(batch)[env], points_of(single)[0])
        torch.testing.assert_close(batch.gradients[env], single.gradients[0])
    assert len(searches) == 2


def test_it_searches_when_somebody_is_byzantine_for_the_first_time(searches):
    attack = new_attack()
    simulation = Simulation.make(
        1, seed=0, attack=attack, roles="pretense:until=2", **TINY, num_workers=6, num_byzantine=2
    )
    for expected in ([], [], [(6, 2)], [(6, 2)]):
        assert searches == expected
        simulation.apply(simulation.gradients.mean(1))


def test_it_imagines_an_honest_worker_where_there_is_none(searches):
    attack = new_attack()
    for n, f in ((4, 3), (1, 0)):
        gradients = torch.ones(1, n, 5)
        sent = attack(gradients, torch.ones(1, n, dtype=torch.bool), AttackContext.standalone(gradients))
        assert sent.isfinite().all()
        assert searches.pop() == (n, f)


def test_the_search_leaves_the_run_alone():
    """The victim's data, parameters and random numbers are those of a run under another attack."""
    arguments = {**TINY, "num_workers": 6, "num_byzantine": 2, "num_envs": 2, "seed": 3}
    adaptive, plain = (Simulation.make(attack=attack, **arguments) for attack in (new_attack(), "sign_flip"))
    honest = ~plain.byzantine
    assert torch.equal(adaptive.byzantine, plain.byzantine)
    assert torch.equal(adaptive.gradients[honest], plain.gradients[honest])
    assert torch.equal(adaptive.view.theta, plain.view.theta)
    assert torch.equal(adaptive.view.qv_value, plain.view.qv_value)
    # That no global generator moves, a fixture checks.


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_it_searches_in_any_mode(mode):
    gradients = torch.ones(1, 5, 3)
    byzantine = torch.tensor([[True, False, False, False, False]])
    attack = new_attack("gaa")  # which needs gradients
    with mode():
        sent = attack(gradients, byzantine, AttackContext.standalone(gradients))
    assert sent.isfinite().all()


def test_it_passes_the_checks():
    """A mapping, with another one in it; for text see test_testing.py."""
    check_attack({"name": "adaptive", "against": {"name": "krum"}, "evaluations": 2, **TINY})


def test_specs():
    attack = attacks.make_from(
        "adaptive:against='gaa:window=2,hidden=[4]',evaluations=7,roles='redrawn:period=5'"
    )
    assert (attack.against, attack.evaluations) == ("gaa:window=2,hidden=[4]", 7)
    assert attack.arguments == {"roles": "redrawn:period=5"}
    assert "against='gaa:window=2,hidden=[4]', evaluations=7, seed=0" in repr(attack)
    json.loads(attack._settings)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"against": "krmu"}, ValueError, "against: unknown agent 'krmu'; did you mean 'krum'"),
        ({"against": "gaa:windwo=2"}, TypeError, "against: .*windwo"),
        ({"against": agents.make("mean")}, TypeError, "against must be the name of a policy.*register"),
        ({"against": {}}, ValueError, "^against: agent: a mapping needs the key 'name', got {}"),
        ({"against": "krum+gaa"}, ValueError, "^against: 'krum' in .* is a rule, which stands last"),
        ({"against": "ensemble:members=krum+x"}, ValueError, r"^against: members\[1\]: unknown agent 'x'"),
        ({"against": "model:nope.zip"}, FileNotFoundError, r"^against: .*nope\.zip"),
        ({"evaluations": 0}, ValueError, "evaluations must be an integer of at least 1, got 0"),
        ({"evaluations": 2.5}, ValueError, "evaluations"),
        ({"seed": -1}, ValueError, "seed must be"),
        ({"round": 3}, TypeError, "unknown argument 'round'; did you mean 'rounds'"),
        ({"attack": "ipm"}, TypeError, "unknown argument 'attack'"),
        ({"num_byzantine": 3}, TypeError, "num_byzantine"),
        ({"num_workers": 3}, TypeError, "num_workers"),
        ({"task": torch.zeros(1)}, TypeError, "no objects"),
    ],
)
def test_bad_parameters_are_named(arguments, error, message):
    with pytest.raises(error, match=message):
        attacks.make("adaptive", **{"against": "mean", **arguments})


def test_values_that_only_a_simulation_can_judge():
    with pytest.raises(ValueError, match="rounds must be"):
        search("mean", 5, 2, evaluations=1, **{**TINY, "rounds": 0})
    with pytest.raises(ValueError, match="num_byzantine must be"):
        search("mean", 5, 5, evaluations=1, **TINY)
