from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from simulation_cases import TINY, Slow, assert_same, make, state_of

from byzgym import agents, aggregation, attacks
from byzgym.envs import ByzantineAggregationEnv
from byzgym.simulation.blocks import BlockRule, Blocks

SERVERS = 4  # of 195 parameters: blocks of 48, 49, 49 and 49


def slices(num_parameters, num_servers):
    edges = [server * num_parameters // num_servers for server in range(num_servers + 1)]
    return [slice(*pair) for pair in pairwise(edges)]


@given(st.integers(1, 40), st.integers(1, 40), st.booleans())
def test_each_server_has_its_block(num_parameters, num_servers, rows):
    num_servers = min(num_servers, num_parameters)
    blocks = Blocks(num_parameters, num_servers)
    shape = (2, 3, num_parameters) if rows else (2, num_parameters)
    values = 1 + torch.arange(2 * (3 if rows else 1) * num_parameters).reshape(shape)
    parts = blocks.split(values)
    assert parts.shape == (2 * num_servers, *shape[1:-1], blocks.width)
    assert torch.equal(blocks.join(parts), values)
    for env in range(2):
        for server, of_server in enumerate(slices(num_parameters, num_servers)):
            part, own = parts[env * num_servers + server], values[env][..., of_server]
            assert torch.equal(part[..., : own.shape[-1]], own)
            assert not part[..., own.shape[-1] :].any()
    assert blocks.rows(torch.tensor([1])).tolist() == list(range(num_servers, 2 * num_servers))


@pytest.mark.parametrize("name", ["krum", "median", "geometric_median", "mean"])
def test_each_server_aggregates_its_block(name):
    simulation = make(num_servers=SERVERS, attack="gaussian:std=1.0")
    policy = agents.build(name, simulation)
    rule = aggregation.make(name, num_byzantine=policy.policy.num_byzantine)
    for _ in range(3):
        gradients, before = simulation.gradients.clone(), simulation.server.theta.clone()
        assert gradients.shape == (2, 6, simulation.num_parameters)
        parts = [rule(gradients[..., block]) for block in slices(simulation.num_parameters, SERVERS)]
        expected = torch.cat(parts, -1)
        decision = policy.decide(simulation.view)
        torch.testing.assert_close(simulation.rule(gradients), expected)  # what attacks are shown
        simulation.apply(decision)
        torch.testing.assert_close(simulation.server.previous_update, expected)
        torch.testing.assert_close(simulation.server.theta, before - 0.1 * expected)
    if name == "krum":  # the servers choose different workers
        chosen = decision.credits.unflatten(0, (2, SERVERS))
        assert (chosen != chosen[:, :1]).any()


@pytest.mark.parametrize("name", ["mean", "median", "trimmed_mean"])
def test_coordinatewise_rules_do_not_mind(name):
    one, many = make(attack="sign_flip"), make(attack="sign_flip", num_servers=SERVERS)
    for simulation in (one, many):
        policy = agents.build(name, simulation)
        for _ in range(5):
            simulation.apply(policy.decide(simulation.view))
    torch.testing.assert_close(one.server.theta, many.server.theta)
    torch.testing.assert_close(one.qv_loss(), many.qv_loss())
    torch.testing.assert_close(one.initial_loss, many.initial_loss)


def test_a_server_under_attack_leaves_the_others_alone():
    attack = attacks.make("gambler", probability=1.0, num_servers=SERVERS, server=2)
    clean, hit = make(num_servers=SERVERS, attack="none"), make(num_servers=SERVERS, attack=attack)
    updates = [
        agents.build("krum", one).decide(one.view).update.unflatten(0, (2, SERVERS)) for one in (clean, hit)
    ]
    assert torch.equal(updates[0][:, [0, 1, 3]], updates[1][:, [0, 1, 3]])
    assert updates[1][:, 2].abs().max() > 1e10


def test_each_server_rejects_for_itself():
    class Infinite(attacks.Attack):
        scope = "transmission"

        def corrupt(self, gradients, byzantine, context):
            gradients = gradients.clone()
            gradients[:, 1, -1] = torch.inf
            return gradients

    simulation = make(num_servers=SERVERS, attack=Infinite())
    rejected = simulation.rejected.unflatten(0, (2, SERVERS))
    assert rejected.nonzero().tolist() == [[0, 3, 1], [1, 3, 1]]
    last = slices(simulation.num_parameters, SERVERS)[-1]
    gradients = simulation.gradients
    assert not gradients[:, 1, last].any()
    assert gradients[:, 1, : last.start].any(-1).all()
    simulation.apply(agents.build("mean", simulation).decide(simulation.view))
    honest = gradients[:, [0, 2, 3, 4, 5]]
    update = simulation.server.previous_update
    torch.testing.assert_close(update[:, last], honest[..., last].mean(1))
    torch.testing.assert_close(update[:, : last.start], gradients[..., : last.start].mean(1))


def test_the_qv_loss_of_a_server_depends_on_its_block():
    simulation = make(num_servers=SERVERS)
    view, theta = simulation.view, simulation.server.theta
    loss, gradient = simulation.quasi_validation.loss_and_gradient(theta)
    torch.testing.assert_close(view.qv_value.unflatten(0, (2, SERVERS)), loss[:, None].expand(2, SERVERS))
    blocks = Blocks(simulation.num_parameters, SERVERS)
    torch.testing.assert_close(view.qv_gradient, blocks.split(gradient))
    point = view.theta.clone().requires_grad_()
    (found,) = torch.autograd.grad(view.qv_loss(point).sum(), point)
    torch.testing.assert_close(found, view.qv_gradient)
    moved = view.theta + 1.0
    losses = view.qv_loss(moved).unflatten(0, (2, SERVERS))
    _, gradients = view.qv_loss_and_gradient(moved)
    for server, block in enumerate(slices(simulation.num_parameters, SERVERS)):
        whole = theta.clone()
        whole[:, block] += 1.0
        value, gradient = simulation.quasi_validation.loss_and_gradient(whole)
        torch.testing.assert_close(losses[:, server], value)
        part = gradients.unflatten(0, (2, SERVERS))[:, server, : block.stop - block.start]
        torch.testing.assert_close(part, gradient[:, block])
    single, contrasts = simulation.quasi_validation.per_sample(theta)
    torch.testing.assert_close(view.qv_sample_gradients, blocks.split(single))
    torch.testing.assert_close(view.qv_contrasts, blocks.split(contrasts))


def test_secure_groups_and_servers():
    one, many = (make(secure_group_size=2, num_servers=servers) for servers in (1, SERVERS))
    assert many.view.gradients.shape[:2] == (2 * SERVERS, 3)
    torch.testing.assert_close(one.gradients, many.gradients)


def play(simulation, rounds):
    for _ in range(rounds):
        simulation.apply(Slow().decide(simulation.view))


def test_memory_snapshots_and_parts():
    """A rule with a memory, played in some environments, and again from a snapshot."""
    simulation = make(num_servers=SERVERS)
    play(simulation, rounds=2)
    saved, states = simulation.snapshot(), []
    for _ in range(2):
        simulation.restore(saved)
        play(simulation, rounds=3)
        simulation.reset([5], [1])
        assert simulation.previous_credits[SERVERS:].eq(1 / 6).all()
        assert not simulation.memory.read("slow", 6)[SERVERS:].any()
        assert simulation.memory.read("slow", 6)[:SERVERS].all()
        decision = aggregation.Median().decide(simulation.view)
        simulation.apply(decision, [0])
        states.append(state_of(simulation))
    assert_same(*states)
    assert states[0]["round"].unflatten(0, (2, SERVERS))[:, 0].tolist() == [6, 0]


def test_environments_of_a_batch_equal_single_ones():
    batch = make(2, seed=3, num_servers=SERVERS, attack="ipm")
    alone = make(1, seed=4, num_servers=SERVERS, attack="ipm")
    for simulation in (batch, alone):
        policy = agents.build("krum", simulation)
        for _ in range(3):
            simulation.apply(policy.decide(simulation.view))
    torch.testing.assert_close(batch.server.theta[1:], alone.server.theta, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["gaa", "set", "oracle", "trust", "random", "uniform"])
def test_every_policy_decides_for_each_server(name):
    simulation = make(num_servers=SERVERS, attack="sign_flip")
    policy = agents.build(name, simulation)
    before = simulation.qv_loss()
    for _ in range(3):
        decision = policy.decide(simulation.view)
        assert decision.credits.shape == (2 * SERVERS, 6)
        simulation.apply(decision)
    assert simulation.qv_loss().isfinite().all()
    if name == "oracle":
        assert (simulation.qv_loss() < before).all()


def test_rules_of_blocks_take_any_leading_dimensions():
    gradients = torch.randn(2, 3, 5, 7, generator=torch.Generator().manual_seed(0))
    found = BlockRule(aggregation.make("krum", num_byzantine=1), Blocks(7, 3))(gradients)
    krum = aggregation.make("krum", num_byzantine=1)
    parts = [krum(gradients[..., block]) for block in slices(7, 3)]
    torch.testing.assert_close(found, torch.cat(parts, -1))


def test_bad_numbers_of_servers():
    for number in (0, 1.5, None):
        with pytest.raises(ValueError, match="num_servers must be an integer of at least 1"):
            make(num_servers=number)
    most = make().num_parameters
    assert make(num_servers=most, num_envs=1).view.gradients.shape == (most, 6, 1)
    with pytest.raises(ValueError, match=f"num_servers must be an integer from 1 to {most}, got {most + 1}"):
        make(num_servers=most + 1)
    with pytest.raises(ValueError, match=r"num_servers must be 1 in an environment.* got 2; a comparison"):
        ByzantineAggregationEnv(**TINY, num_servers=2)
    simulation = make(num_servers=SERVERS)
    with pytest.raises(ValueError, match=r"update must have shape \[2, 195\], got \[8, 48\]"):
        simulation.apply(torch.zeros(8, 48))
