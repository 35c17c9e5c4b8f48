"""The ensemble: its weights, its bound, members that explode, memories and names."""

import math

import pytest
import torch
from agent_cases import assert_on_simplex, make, normal_view
from hypothesis import given, settings
from hypothesis import strategies as st

from byzgym import agents
from byzgym.aggregation import Decision, ServerView
from byzgym.memory import Memory
from byzgym.specs import canonical


class Propose:
    """Always proposes submission number ``which``, with no credits."""

    def __init__(self, which):
        self.which = which

    def aggregate(self, view):
        return view.gradients[:, self.which]


class Table:
    """A server whose QV loss after each pure proposal, and after any mixture of them, is dictated.

    Submission m is the unit vector m, theta is zero and the learning rate -1: theta after proposal m is this
    vector, too.
    """

    def __init__(self, members):
        self.members, self.memory, self.round = members, Memory(1), 0

    def play(self, ensemble, losses, mixed, before):
        """The loss of what the ensemble plays; the loss is ``mixed`` after what is no pure proposal."""

        def qv_loss(theta):
            pure = (theta == 1).sum(1) + (theta == 0).sum(1) == self.members
            return torch.where(pure, torch.tensor(losses).double()[theta.argmax(1)], mixed)

        rows = torch.eye(self.members)[None]
        view = ServerView(rows, torch.zeros(1, self.members), -1.0, qv_loss, memory=self.memory)
        view.qv_loss_and_gradient = lambda theta: (torch.tensor([before]), torch.zeros_like(theta))
        return float(qv_loss(ensemble.decide(view).update))


def proposing(members, learning_rate):
    return agents.make("ensemble", members=[Propose(m) for m in range(members)], learning_rate=learning_rate)


def test_weights_by_hand():
    ensemble, table = proposing(2, math.log(2)), Table(2)
    table.play(ensemble, [3.0, 2.0], 2.0, before=2.0)  # losses 0.5 and 0 in units of the first QV loss
    assert ensemble.weights[0].tolist() == pytest.approx([2**-0.5 / (2**-0.5 + 1), 1 / (2**-0.5 + 1)])
    table.play(ensemble, [1.0, 1.5], 1.0, before=1.0)  # 0 and 0.25, added up 0.5 and 0.25
    assert ensemble.weights[0].tolist() == pytest.approx([2**-0.25 / (2**-0.25 + 1), 1 / (2**-0.25 + 1)])
    table.play(ensemble, [7.0, 1.0], 1.0, before=1.0)  # 3, not clipped, and 0
    assert ensemble.weights[0].tolist() == pytest.approx([2**-3.25 / (2**-3.25 + 1), 1 / (2**-3.25 + 1)])
    table.play(ensemble, [1.0, 1.0], 1.0, before=1.0)  # what is remembered of the 3 is 1
    assert ensemble.weights[0].tolist() == pytest.approx([2**-1.25 / (2**-1.25 + 1), 1 / (2**-1.25 + 1)])


def test_a_mixture_worse_than_its_parts_is_not_played():
    ensemble, table = proposing(2, 1.0), Table(2)
    assert table.play(ensemble, [1.0, 0.9], 0.94, before=1.0) == pytest.approx(0.94)
    assert table.play(ensemble, [1.0, 0.9], 0.97, before=1.0) == pytest.approx(0.9)
    assert ensemble.weights.tolist() == [[0, 1]]


def test_a_mixture_is_no_better_than_a_loss_that_is_the_largest():
    ensemble, table = proposing(2, 1.0), Table(2)
    assert table.play(ensemble, [0.0, 0.0], 1e30, before=1e30) == 0


loss = st.one_of(st.floats(0, 3), st.sampled_from([0.0, 1.0, 1e6, 1e30, math.inf]))


@settings(max_examples=40, deadline=None)
@given(data=st.data(), members=st.integers(1, 4), learning_rate=st.sampled_from([0.1, 1.0, 30.0]))
def test_the_regret_is_bounded_for_any_losses(data, members, learning_rate):
    ensemble, table, unit = proposing(members, learning_rate), Table(members), None
    played, totals = 0.0, [0.0] * members
    for _ in range(data.draw(st.integers(1, 12))):
        losses, before = data.draw(st.lists(loss, min_size=members, max_size=members)), data.draw(loss)
        before = min(max(before, 1e-3), 1e30)
        unit = unit or before
        got = table.play(ensemble, losses, data.draw(loss), before)

        def clipped(value, before=before, unit=unit):
            return min(max((min(value, 1e30) - before) / unit, -1), 1)

        played += clipped(1e30 if math.isnan(got) else got)
        totals = [total + clipped(value) for total, value in zip(totals, losses, strict=True)]
    assert played <= min(totals) + math.log(members) / learning_rate + 1e-4


def test_weights_equal_a_slow_hedge():
    simulation = make(3, attack="ipm", num_byzantine=3)
    ensemble = agents.build("ensemble:members=krum+median+mean,learning_rate=5", simulation)
    alone = [agents.build(name, simulation) for name in ("krum", "median", "mean")]
    totals, first = [[0.0] * 3 for _ in range(3)], simulation.qv_loss()
    for _ in range(6):
        view = simulation.view
        update = ensemble.decide(view).update
        for env in range(3):
            weights, mixture = [], torch.zeros_like(update[env])
            proposals = [agent.decide(view).update[env] for agent in alone]
            for m, proposal in enumerate(proposals):
                theta = view.theta.clone()
                theta[env] -= view.learning_rate[env] * proposal
                totals[env][m] += float((view.qv_loss(theta)[env] - view.qv_value[env]) / first[env])
                weights.append(math.exp(-5 * totals[env][m]))
            for weight, proposal in zip(weights, proposals, strict=True):
                mixture += weight / sum(weights) * proposal
            torch.testing.assert_close(update[env], mixture, rtol=1e-4, atol=1e-5)
        simulation.apply(update)


@pytest.mark.parametrize("size", [1e20, 3e38, math.inf, math.nan])
def test_a_member_that_explodes_does_no_harm(size):
    class Exploding:
        def aggregate(self, view):
            return torch.full_like(view.theta, size)

    one, other = make(), make()
    ensemble = agents.build({"name": "ensemble", "members": [Exploding(), "mean"]}, one)
    mean = agents.build("mean", other)
    for _ in range(4):
        one.apply(ensemble.decide(one.view))
        other.apply(mean.decide(other.view))
    assert ensemble.weights.tolist() == [[0, 1]] * 2
    assert torch.equal(one.view.theta, other.view.theta)
    assert not one.diverged.any()


def test_credits_are_the_mean_of_the_members():
    simulation = make(2)
    ensemble = agents.build("ensemble:members=krum+uniform", simulation)
    assert ensemble.linear
    for _ in range(3):
        decision = ensemble.decide(simulation.view)
        assert_on_simplex(decision.credits)
        krum = agents.build("krum", make(2)).credits(simulation.view)
        expected = ensemble.weights[:, :1] * krum + ensemble.weights[:, 1:] / simulation.num_rows
        torch.testing.assert_close(decision.credits, expected)
        combined = torch.einsum("en,end->ed", decision.credits, simulation.gradients)
        torch.testing.assert_close(decision.update, combined)
        simulation.apply(decision)
    without = agents.build("ensemble:members=krum+median", make())
    assert not without.linear
    assert without.decide(make().view).credits is None


def run(agent, simulation, rounds):
    updates = []
    for _ in range(rounds):
        decision = agent.decide(simulation.view)
        updates.append(decision.update)
        simulation.apply(decision)
    return torch.stack(updates)


NESTED = {"name": "ensemble", "members": ["gaa", {"name": "ensemble", "members": "krum+trust"}, "trust"]}


def test_a_batch_equals_its_environments_alone():
    batch = make(3, 5)
    updates = run(agents.build(NESTED, batch), batch, 8)
    for env in range(3):
        single = make(1, 5 + env)
        alone = run(agents.build(NESTED, single), single, 8)
        torch.testing.assert_close(updates[:, [env]], alone, rtol=1e-3, atol=1e-5)


def test_an_environment_that_restarts_forgets():
    simulation, alone = make(3), make(1)
    ensemble = agents.build(NESTED, simulation)
    run(ensemble, simulation, 5)
    simulation.reset([99], [1])
    ensemble.reset(torch.tensor([False, True, False]))
    alone.reset([99])
    fresh = run(agents.build(NESTED, alone), alone, 5)
    torch.testing.assert_close(run(ensemble, simulation, 5)[:, [1]], fresh, rtol=1e-3, atol=1e-5)
    undisturbed = make(3)
    expected = run(agents.build(NESTED, undisturbed), undisturbed, 10)[5:]
    simulation = make(3)
    ensemble = agents.build(NESTED, simulation)
    run(ensemble, simulation, 5)
    simulation.reset([99], [1])
    ensemble.reset(torch.tensor([False, True, False]))
    others = run(ensemble, simulation, 5)[:, [0, 2]]
    torch.testing.assert_close(others, expected[:, [0, 2]], rtol=1e-3, atol=1e-5)


def test_losses_travel_in_snapshots():
    simulation = make(attack="ipm", num_byzantine=3)
    ensemble = agents.build("ensemble:members=krum+mean", simulation)
    run(ensemble, simulation, 5)
    snapshot = simulation.snapshot()
    expected = run(ensemble, simulation, 4)
    simulation.restore(snapshot)
    fresh = agents.build("ensemble:members=krum+mean", simulation)
    assert torch.equal(run(fresh, simulation, 4), expected)


def test_asking_twice_changes_nothing():
    once, twice = make(), make()
    expected = run(agents.build(NESTED, once), once, 5)
    ensemble, updates = agents.build(NESTED, twice), []
    for _ in range(5):
        updates.append(ensemble.decide(twice.view).update)
        assert torch.equal(ensemble.decide(twice.view).update, updates[-1])
        twice.apply(updates[-1])
    torch.testing.assert_close(torch.stack(updates), expected)


def test_members_of_one_kind_have_memories_of_their_own():
    class Count:
        def decide(self, view):
            count = view.memory.read("count") + 1
            view.memory.write("count", count)
            return Decision(view.gradients.mean(1) * count[:, None])

    simulation = make()
    ensemble = agents.build({"name": "ensemble", "members": [Count(), Count()]}, simulation)
    for number in range(1, 4):
        update = ensemble.decide(simulation.view).update
        torch.testing.assert_close(update, number * simulation.gradients.mean(1))
        simulation.apply(update)
    assert "count" not in simulation.memory.state()


def test_members_are_told_f():
    simulation = make(num_workers=9, num_byzantine=2)
    ensemble = agents.build("ensemble:members=krum+trimmed_mean", simulation)
    assert [member.policy.num_byzantine for member in ensemble.members] == [2, 2]


@pytest.mark.parametrize(
    ("spec", "names"),
    [
        ("ensemble", ["krum", "gaa"]),
        ("ensemble:members=krum", ["krum"]),
        ("ensemble:members=krum+gaa:start=krum+mean", ["krum", "gaa", "mean"]),
        ("ensemble:members='fixed:credits=[1, 2]+mean'", ["fixed", "mean"]),
        ("ensemble:members=['krum', 'gaa:window=3,hidden=[4]'],learning_rate=3", ["krum", "gaa"]),
        ({"name": "ensemble", "members": ["krum", {"name": "gaa", "window": 3}]}, ["krum", "gaa"]),
    ],
)
def test_specs(spec, names):
    made = agents.make_from(canonical(spec) if isinstance(spec, str) else spec)
    found = [member.name if hasattr(member, "name") else type(member).__name__ for member in made.members]
    assert [name.lower() for name in found] == names


def reference(simulation):
    """A factory that does not say in advance that what it makes is a reference."""
    return agents.BenignOnlyOracle(simulation)


@pytest.mark.parametrize(
    ("members", "error", "message"),
    [
        ([], ValueError, "members must not be empty"),
        (3, TypeError, "members must be names joined by"),
        ({"name": "krum"}, TypeError, "members must be names joined by"),
        ("krum+nope", ValueError, r"^members\[1\]: unknown agent 'nope'; .*known: .*krum"),
        ("krum+", ValueError, r"^members\[1\]: expected 'name' or .*, got ''"),
        (["krum", 3], TypeError, r"^members\[1\]: agent must be 'name', .*, got 3"),
        ([{"nam": "krum"}], ValueError, r"^members\[0\]: agent: a mapping needs the key 'name', got {'nam'"),
        ("krum+gaa:window=0", ValueError, r"^members\[1\]: window must be an integer of at least 1, got 0"),
        ("krum+gaa:windw=1", TypeError, r"^members\[1\]: agent 'gaa': .*'windw'; its parameters: window"),
        ("mean+model:nope.zip", FileNotFoundError, r"^members\[1\]: .*nope\.zip"),
        ("krum+multi_krum:num_selected=99", ValueError, r"^members\[1\]: num_selected must be .*, got 99"),
        ("krum+oracle", ValueError, r"^members\[1\] must not be a reference.*got oracle"),
        ("krum+late_oracle", ValueError, r"^members\[1\] must not be a reference.*BenignOnlyOracle"),
        (["krum", "ensemble:members=mean+nope"], ValueError, r"^members\[1\]: members\[1\]: unknown agent"),
        (["krum", "gaa:start=oracle"], ValueError, r"^members\[1\]: start must not be a reference"),
    ],
)
def test_what_cannot_be_a_member(members, error, message):
    agents.register("late_oracle", reference)
    with pytest.raises(error, match=message):
        agents.build({"name": "ensemble", "members": members}, make())


def test_a_member_that_fails_in_a_round_is_named():
    simulation = make()
    ensemble = agents.build({"name": "ensemble", "members": ["krum", "fixed:credits=[1, 2]"]}, simulation)
    with pytest.raises(ValueError, match="credits must have 6 entries, got 2") as caught:
        ensemble.decide(simulation.view)
    assert caught.value.__notes__ == ["raised by members[1]"]


def test_a_view_without_memory_or_qv_loss_is_refused():
    view, ensemble = normal_view(), agents.make("ensemble", members="mean+krum")
    with pytest.raises(ValueError, match="keeps a memory"):
        ensemble.decide(view)
    view.memory, view.qv_loss = Memory(2), None
    with pytest.raises(ValueError, match="no qv_loss"):
        ensemble.decide(view)
