"""Uniform, random and fixed credits, the oracle, and agents in a training job without byzgym."""

from types import SimpleNamespace

import gymnasium as gym
import pytest
import torch
from agent_cases import ID, TINY, Job, assert_on_simplex, make, normal_view, play, view_of

from byzgym import agents
from byzgym.agents.base import action_of
from byzgym.aggregation import NotLinearError, ServerView


def rejecting_view(num_envs=2, num_workers=5):
    rejected = torch.zeros(num_envs, num_workers, dtype=torch.bool)
    rejected[0, [0, 3]] = True
    gradients = normal_view(num_envs, num_workers).gradients
    return view_of(gradients.masked_fill(rejected[..., None], 0), rejected)


def test_uniform():
    view = normal_view(num_workers=5)
    agent = agents.make("uniform")
    torch.testing.assert_close(agent.credits(view), torch.full((2, 5), 0.2))
    torch.testing.assert_close(agent.aggregate(view), view.gradients.mean(1))
    credits = agent.credits(rejecting_view())
    torch.testing.assert_close(credits[0], torch.tensor([0, 1 / 3, 1 / 3, 0, 1 / 3]))
    torch.testing.assert_close(credits[1], torch.full((5,), 0.2))


def test_random_draws_uniformly_from_the_simplex():
    credits = agents.make("random", seed=1).credits(normal_view(num_envs=20_000, num_workers=4))
    assert_on_simplex(credits)
    # Dirichlet(1, 1, 1, 1): mean 1/4, variance (1/4)(3/4)/5, and P(c > x) = (1 - x)^3.
    torch.testing.assert_close(credits.mean(0), torch.full((4,), 0.25), rtol=0.0, atol=0.006)
    torch.testing.assert_close(credits.var(0), torch.full((4,), 3 / 80), rtol=0.0, atol=0.002)
    assert (credits > 0.5).float().mean().item() == pytest.approx(0.125, abs=0.006)


def test_random_is_reproducible():
    agent = agents.make("random", seed=3)
    first = play(agent, make(), 4)
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first[0, 0], first[0, 1])
    agent.reset()
    assert torch.equal(play(agent, make(), 4), first)
    assert torch.equal(play(agents.make("random", seed=3), make(), 4), first)
    assert not torch.equal(play(agents.make("random", seed=4), make(), 4), first)
    # An environment that begins anew must not repeat what the others are in the middle of.
    agent.reset(torch.tensor([True, False]))
    assert not torch.equal(play(agent, make(), 4), first)


def test_fixed():
    view = normal_view(num_workers=3)
    agent = agents.make("fixed", credits=[1, 0, 3])
    torch.testing.assert_close(agent.credits(view), torch.tensor([[0.25, 0, 0.75]] * 2))
    expected = 0.25 * view.gradients[:, 0] + 0.75 * view.gradients[:, 2]
    torch.testing.assert_close(agent.aggregate(view), expected)
    assert agents.make("fixed").credits(view).tolist() == [[1, 0, 0]] * 2
    large = agents.make("fixed", credits=[1e308, 0, 1e308])
    assert large.credits(view).tolist() == [[0.5, 0, 0.5]] * 2


def test_fixed_moves_the_credit_of_rejected_rows():
    credits = agents.make("fixed", credits=[4, 1, 1, 0, 2]).credits(rejecting_view())
    torch.testing.assert_close(credits[0], torch.tensor([0, 0.25, 0.25, 0, 0.5]))
    torch.testing.assert_close(credits[1], torch.tensor([0.5, 0.125, 0.125, 0, 0.25]))


def test_fixed_refuses_what_is_no_credit_vector():
    for credits in ([1, -1, 2], [float("nan"), 1], [float("inf"), 1], ["a", 1]):
        with pytest.raises(ValueError, match="must be a finite number of at least 0"):
            agents.make("fixed", credits=credits)
    for credits in ([0, 0], []):
        with pytest.raises(ValueError, match="credits must have a positive sum"):
            agents.make("fixed", credits=credits)
    with pytest.raises(ValueError, match="credits must have 4 entries, got 2"):
        agents.make("fixed", credits=[1, 1]).credits(normal_view(num_workers=4))


def honest_mean(simulation):
    rows = [g[~b].mean(0) for g, b in zip(simulation.gradients, simulation.byzantine, strict=True)]
    return torch.stack(rows)


def test_oracle_averages_the_honest():
    simulation = make(3, num_byzantine=4, roles={"name": "randomized", "period": 1, "probability": 0.5})
    agent = agents.make("oracle", simulation=simulation)
    seen = set()
    for _ in range(5):
        seen.add(tuple(simulation.byzantine[0].tolist()))
        update = agent.aggregate(simulation.view)
        torch.testing.assert_close(update, honest_mean(simulation))
        assert not torch.allclose(update, simulation.gradients.mean(1))
        assert_on_simplex(agent.credits(simulation.view))
        simulation.apply(update)
    assert len(seen) > 1, "the roles never changed"


def test_oracle_leaves_out_rejected_honest_rows():
    simulation = make(1)
    honest = (~simulation.byzantine[0]).nonzero()[:, 0]
    simulation.rejected[0, honest[0]] = True
    credits = agents.make("oracle", simulation=simulation).credits(simulation.view)[0]
    expected = torch.zeros(6)
    expected[honest[1:]] = 1 / 3
    torch.testing.assert_close(credits, expected)


def test_oracle_in_secure_groups():
    simulation = make(4, num_byzantine=1, secure_group_size=2)
    credits = agents.make("oracle", simulation=simulation).credits(simulation.view)
    hit = simulation.byzantine.unflatten(1, (3, 2)).any(2)
    torch.testing.assert_close(credits, (~hit) / 2.0)


def test_oracle_under_a_fault_in_transmission():
    """Environment 0 has a fault, environment 1 a Byzantine worker: worker 0."""
    simulation = SimpleNamespace(
        num_envs=2,
        byzantine_rows=torch.tensor([[False, False, False], [True, False, False]]),
        faulty=torch.tensor([True, False]),
        sent_mean=torch.tensor([[2.0, 4.0], [torch.nan, torch.nan]]),
    )
    view = view_of([[[1e20, 1.0], [1.0, 1.0], [1.0, 1.0]], [[9.0, 9.0], [1.0, 2.0], [3.0, 6.0]]])
    decision = agents.make("oracle", simulation=simulation).decide(view)
    assert decision.update.tolist() == [[2, 4], [2, 4]]
    assert decision.credits[0].isnan().all()
    assert decision.credits[1].tolist() == [0, 0.5, 0.5]


FAULTS = ("bit_flip:victims=all,bits=[32]", "gambler:probability=0.5,factor=1e38")


@pytest.mark.parametrize("attack", FAULTS)
@pytest.mark.parametrize("form", [{}, {"secure_group_size": 2}, {"num_servers": 3}, {"worker_momentum": 0.5}])
def test_oracle_is_the_mean_of_what_was_sent(attack, form):
    """Batches are drawn for 16 rounds, before the fault draws anything, so a clean run has the same."""
    faulty, clean = make(attack=attack, **form), make(attack="none", num_byzantine=0, **form)
    agent = agents.make("oracle", simulation=faulty)
    for _ in range(3):
        assert not faulty.byzantine.any()
        assert not torch.equal(faulty.gradients, clean.gradients)
        decision = agent.decide(faulty.view)
        assert decision.credits.isnan().all()
        sent = clean.gradients.mean(1)
        faulty.apply(decision)
        torch.testing.assert_close(faulty.server.previous_update, sent)
        clean.apply(sent)
    snapshot = faulty.snapshot()
    expected = agent.decide(faulty.view).update
    faulty.apply(decision)
    faulty.restore(snapshot)
    assert torch.equal(agent.decide(faulty.view).update, expected)


def test_a_fault_among_other_attacks():
    attacks = [{"attack": FAULTS[0]}, {"attack": "sign_flip"}]
    simulation = make(per_environment=attacks)
    assert simulation.faulty.tolist() == [True, False]
    assert simulation.byzantine.sum(1).tolist() == [0, 2]
    decision = agents.make("oracle", simulation=simulation).decide(simulation.view)
    assert decision.credits.isnan().any(1).tolist() == [True, False]
    torch.testing.assert_close(decision.update[1], honest_mean(simulation)[1])


def test_where_the_oracle_has_no_credits():
    env = gym.make(ID, **{**TINY, "attack": FAULTS[0]})
    agent = agents.make("oracle").bind(env)
    observation, info = env.reset(seed=3)
    assert not info["byzantine"].any()
    with pytest.raises(NotLinearError, match="use action='update'"):
        agent.predict(observation)
    arguments = {"attack": ["sign_flip", FAULTS[0]]}
    assert action_of(agents.make("oracle"), arguments) == "update"
    assert action_of(agents.make("oracle"), {"attack": "bit_flip"}) == "null_slot"
    assert action_of(agents.make("oracle"), {}) == "null_slot"
    assert action_of(agents.make("gaa"), arguments) == "null_slot"
    assert action_of(agents.make("median"), {}) == "update"


def test_an_oracle_can_be_bound_anew():
    first, second = gym.make(ID, **TINY), gym.make(ID, **TINY)
    first.reset(seed=0)
    observation, info = second.reset(seed=3)
    assert info["byzantine"].tolist() != first.unwrapped.simulation.byzantine[0].tolist()
    action, _ = agents.make("oracle").bind(first).bind(second).predict(observation)
    assert ((action == 0) == info["byzantine"]).all()


def test_the_oracle_needs_a_simulation():
    with pytest.raises(TypeError, match="simulation"):
        agents.make("oracle").credits(normal_view())


def test_gaa_learns_in_a_job_without_a_simulation():
    errors = {}
    for name in ("gaa:learning_rate=0.1", "uniform", "krum"):
        job = Job()
        given = job.run(agents.make_from(name), 80)
        assert_on_simplex(given)
        errors[name[:3]] = (job.theta - job.truth).norm().item()
        if name.startswith("gaa"):
            assert given[-1, 2:].sum() < 0.1
    # Three of five flip the sign: the mean goes the wrong way, and Krum follows the majority.
    assert errors["gaa"] < 0.1
    assert min(errors["uni"], errors["kru"]) > 1


@pytest.mark.parametrize("name", ["gaa", "uniform", "median"])
def test_a_job_may_hand_over_what_is_not_finite(name):
    agent = agents.make(name)
    for round in range(8):
        gradients = normal_view(num_envs=1, num_workers=5, seed=round).gradients.clone()
        if round == 2:
            gradients[0, 0, 0] = torch.nan
        view = view_of(gradients)
        assert agent.aggregate(view).isfinite().all()
        assert view.rejected.tolist() == [[round == 2, False, False, False, False]]
        assert not view.gradients[view.rejected].any()
        assert gradients.isnan().any() == (round == 2)  # what was handed over is as it was


@pytest.mark.parametrize("name", ["gaa", "uniform", "krum"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_agents_keep_the_type_of_a_job(name, dtype):
    agent = agents.make(name)
    for round in range(3):
        view = normal_view(num_envs=1, num_workers=5, seed=round)
        values = [value.to(dtype) for value in (view.gradients, view.theta, view.learning_rate)]
        typed = ServerView(*values, view.qv_loss)
        credits, update = agent.credits(typed), agent.aggregate(typed)
        assert credits.dtype == update.dtype == dtype
        torch.testing.assert_close(credits.sum(1).float(), torch.ones(1), rtol=0.02, atol=0.0)
