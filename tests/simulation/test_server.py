"""The server's steps, what it receives, and what it may know."""

import functools
import types

import pytest
import torch
from simulation_cases import make, play, uniform_update

from byzgym import agents
from byzgym.simulation.config import SimulationConfig, resolve
from byzgym.simulation.server import Server, receive


def server_for(num_envs, **arguments):
    return Server(resolve(SimulationConfig(task="synthetic", **arguments)), num_envs, 3)


def test_steps_follow_momentum_and_schedule():
    rate = {"initial": 0.4, "schedule": "step", "every": 2, "factor": 0.5}
    for momentum in (0, 0.9):
        simulation = make(learning_rate=rate, momentum=momentum)
        theta, velocity = simulation.view.theta.clone(), torch.zeros_like(simulation.view.theta)
        for step_size in (0.4, 0.4, 0.2, 0.2, 0.1):
            assert simulation.view.learning_rate.tolist() == pytest.approx([step_size] * 2)
            update = uniform_update(simulation)
            velocity = momentum * velocity + update
            theta = theta - step_size * velocity
            simulation.apply(update)
            torch.testing.assert_close(simulation.view.theta, theta)
            torch.testing.assert_close(simulation.view.previous_update, update)


def test_an_update_that_is_not_finite_is_refused():
    server = server_for(3, momentum=0.5, learning_rate=1.0)
    server.step(torch.ones(3, 3), None)
    server.step(torch.tensor([[torch.nan] * 3, [1.0] * 3, [1.0] * 3]), None)
    assert server.diverged.tolist() == [True, False, False]
    assert server.theta[:, 0].tolist() == [-1, -2.5, -2.5]
    assert server.velocity[:, 0].tolist() == [1, 1.5, 1.5]
    assert server.previous_update[:, 0].tolist() == [1, 1, 1]
    server.step(torch.tensor([[1.0] * 3, [torch.inf] * 3, [1.0] * 3]), torch.tensor([True, True, False]))
    assert server.diverged.tolist() == [True, True, False]  # it is remembered
    assert server.theta[:, 0].tolist() == [-2.5, -2.5, -2.5]
    assert server.round.tolist() == [3, 3, 2]  # refused rounds count


@pytest.mark.parametrize("learning_rate", [1e-30, 1.0])
def test_overflows_are_refused(learning_rate):
    server = server_for(1, momentum=0.9, learning_rate=learning_rate)
    for _ in range(2):
        server.step(torch.full((1, 3), 3e38), None)  # 0.9 * 3e38 + 3e38 overflows
    assert server.diverged.all()
    assert server.velocity.isfinite().all()
    assert server.theta.isfinite().all()


def test_secure_groups_show_means_only():
    single, grouped = make(attack="none"), make(attack="none", secure_group_size=3)
    assert grouped.num_rows == 2
    torch.testing.assert_close(grouped.gradients, single.gradients.view(2, 2, 3, -1).mean(2))
    assert torch.equal(grouped.byzantine_rows, grouped.byzantine.view(2, 2, 3).any(2))


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("group_size", [1, 2])
def test_rows_that_are_not_finite_are_rejected(value, group_size):
    rows = torch.full((1, 4, 100), 3e37)  # whose sum overflows
    rows[0, 1, 7] = value
    received, rejected = receive(rows.clone(), group_size)
    assert rejected.tolist() == [[False, True, False, False] if group_size == 1 else [True, False]]
    assert not received[rejected].any()
    torch.testing.assert_close(received[~rejected], torch.full_like(received[~rejected], 3e37))


def test_rejections_belong_to_their_round():
    def spoil_the_first_round(gradients, byzantine, context):
        return torch.where(context.round[:, None, None] == 0, torch.nan, gradients)

    simulation = make(attack=spoil_the_first_round)
    first, byzantine = simulation.view, simulation.byzantine.clone()
    assert simulation.view is first
    assert torch.equal(simulation.rejected, byzantine)
    assert not simulation.gradients[byzantine].any()
    play(simulation, envs=[1])
    assert torch.equal(simulation.view.rejected, byzantine & torch.tensor([[True], [False]]))
    assert torch.equal(first.rejected, byzantine)  # a view of the past keeps what it has
    simulation.restore(simulation.snapshot())
    assert torch.equal(simulation.view.rejected[0], byzantine[0])


@pytest.mark.parametrize("scope", ["workers", "transmission"])
def test_views_and_contexts_lead_to_no_secret(scope):
    def remember(first, second, context):
        name = "roles" if first.dtype == torch.bool else "attack"
        context.memory.write(name, torch.ones(2))
        contexts[name] = context
        return first

    remember.scope = scope
    contexts = {}
    simulation = make(attack=remember, roles=remember, reward_size=4)
    simulation.memory.write("rule", torch.ones(2, 3))
    simulation.reward_loss()
    task, workers = simulation.setup.task, simulation.workers
    secrets = {
        "data": (task.test, task.train),
        "byzantine": (workers.assigned, workers.byzantine, workers.attack_of),
        "sent": (workers.sent_mean, simulation.sent_mean),
        "roles": workers.roles_memory,
        "attack": workers.memories[1:],
        "reward": (task.held_out, simulation.reward_set.samples),
    }
    for view in (simulation.view, simulation.view.of(torch.tensor([1]))):
        reached = storages(view)
        assert storages(view.gradients) <= reached
        assert storages(simulation.memory) & reached
        assert all(thing is not simulation for thing in reachable(view))
        assert not [name for name, secret in secrets.items() if storages(secret) & reached]
    secrets |= {"qv": simulation.quasi_validation.x, "theta": simulation.server.theta}
    secrets |= {"update": simulation.server.previous_update, "rule": simulation.memory}
    for own, context in contexts.items():
        reached = storages(context)
        assert [name for name, secret in secrets.items() if storages(secret) & reached] == [own]


@pytest.mark.parametrize("policy", ["median", "gaa", "trust"])
def test_what_was_sent_before_a_fault_moves_nothing(policy):
    """The walk above finds references; a copy would be found here."""
    fault = "gambler:probability=0.1,factor=-3.0"
    told, untold = (make(attack=fault, reward_size=4) for _ in range(2))
    deciding = [agents.build(policy, each) for each in (told, untold)]
    for _ in range(4):
        untold.workers.sent_mean.fill_(torch.nan)
        first, second = (
            agent.decide(each.view) for agent, each in zip(deciding, (told, untold), strict=True)
        )
        assert torch.equal(first.update, second.update)
        for each, decision in ((told, first), (untold, second)):
            each.apply(decision)
        assert torch.equal(told.gradients, untold.gradients)
        assert torch.equal(told.reward_loss(), untold.reward_loss())


def storages(thing):
    """The storages of all tensors that can be reached."""
    tensors = [one for one in reachable(thing) if isinstance(one, torch.Tensor)]
    return {tensor.untyped_storage().data_ptr() for tensor in tensors if tensor.numel()}


def reachable(thing):
    """Everything that attributes, containers, closures, defaults and bound arguments lead to."""
    seen, queue = {}, [thing]
    while queue:
        thing = queue.pop()
        if id(thing) in seen:
            continue
        seen[id(thing)] = thing  # kept, so that no other gets its number
        yield thing
        if isinstance(thing, dict):
            queue += thing.values()
        elif isinstance(thing, list | tuple | set | frozenset):
            queue += thing
        elif not isinstance(thing, torch.Tensor | type | types.ModuleType):
            queue += [getattr(thing, "__dict__", None), getattr(thing, "__self__", None)]
            queue += [getattr(thing, name, None) for name in getattr(thing, "__slots__", ())]
            queue += [cell.cell_contents for cell in getattr(thing, "__closure__", None) or ()]
            queue += [getattr(thing, "__defaults__", None), getattr(thing, "__kwdefaults__", None)]
            if isinstance(thing, functools.partial):
                queue += [thing.func, thing.args, thing.keywords]


def test_the_walk_finds_what_is_hidden():
    class Slotted:
        __slots__ = ("one",)

    secret, slotted = object(), Slotted()
    slotted.one = secret
    hidden = [
        functools.partial(max, secret),
        functools.partial(max, key=secret),
        lambda: secret,
        lambda given=secret: given,
        types.SimpleNamespace(inner=[(secret,)]),
        slotted,
    ]
    for thing in hidden:
        assert any(found is secret for found in reachable(thing))
