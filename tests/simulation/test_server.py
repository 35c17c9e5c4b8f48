"""What the server does in a round: receive, step, refuse, evaluate; and what it may know."""

import functools
import types

import pytest
import torch
from simulation_cases import make, uniform_update
from torch import nn
from torch.nn import functional as F

from byzgym import aggregation, attacks, tasks
from byzgym.simulation import gradients, modules
from byzgym.simulation.schedules import LearningRate
from byzgym.simulation.server import Server, receive
from byzgym.simulation.config import SimulationConfig, resolve

OVERFLOWING = {"name": "omniscient", "factor": 3e38}


def test_theta_follows_plain_sgd():
    simulation = make(learning_rate=0.3)
    theta = simulation.view.theta.clone()
    for _ in range(3):
        update = uniform_update(simulation)
        theta = theta - 0.3 * update
        simulation.apply(update)
        assert torch.equal(simulation.view.theta, theta)


def test_theta_follows_momentum_and_schedule():
    rate = {"initial": 0.4, "schedule": "step", "every": 2, "factor": 0.5}
    simulation = make(learning_rate=rate, momentum=0.9)
    theta, velocity = simulation.view.theta.clone(), torch.zeros_like(simulation.view.theta)
    for step_size in (0.4, 0.4, 0.2, 0.2, 0.1):
        assert simulation.view.learning_rate.tolist() == pytest.approx([step_size] * 2)
        update = uniform_update(simulation)
        velocity = 0.9 * velocity + update
        theta = theta - step_size * velocity
        simulation.apply(update)
        torch.testing.assert_close(simulation.view.theta, theta)
        torch.testing.assert_close(simulation.view.previous_update, update)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (0.5, [0.5] * 5),
        ({"initial": 1.0, "schedule": "linear"}, [1, 0.75, 0.5, 0.25, 0]),
        ({"initial": 1.0, "schedule": "cosine"}, [1, (1 + 0.5**0.5) / 2, 0.5, (1 - 0.5**0.5) / 2, 0]),
        ({"initial": 1.0, "schedule": "inverse_time", "decay": 1.0}, [1, 1 / 2, 1 / 3, 1 / 4, 1 / 5]),
        ({"initial": 1.0, "schedule": "linear", "final": 0.5}, [1, 0.875, 0.75, 0.625, 0.5]),
        ({"initial": 1.0, "schedule": "step", "every": 3}, [1, 1, 1, 0.1, 0.1]),
    ],
)
def test_schedules(spec, expected):
    assert LearningRate(spec, 4)(torch.arange(5)).tolist() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_the_rate_stays_at_its_end_beyond_the_last_round(schedule):
    rate = LearningRate({"initial": 1.0, "schedule": schedule, "final": 0.25}, 4)
    assert rate(torch.tensor([4, 5, 9])).tolist() == pytest.approx([0.25] * 3)


def test_secure_groups_show_means_only():
    single, grouped = make(attack="none"), make(attack="none", secure_group_size=3)
    assert grouped.num_rows == 2
    torch.testing.assert_close(grouped.gradients, single.gradients.view(2, 2, 3, -1).mean(2))
    assert torch.equal(grouped.byzantine_rows, grouped.byzantine.view(2, 2, 3).any(2))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_rows_that_are_not_finite_are_rejected(value):
    def spoil(gradients, byzantine, context):
        spoiled = gradients.clone()
        spoiled[..., 7] = value
        return spoiled

    attacks.register("test_spoil", lambda: spoil)
    simulation = make(attack="test_spoil")
    assert torch.equal(simulation.view.rejected, simulation.byzantine)
    assert (simulation.gradients[simulation.byzantine] == 0).all()
    assert simulation.gradients.isfinite().all()


def test_rows_whose_sum_overflows_are_received():
    rows = torch.full((1, 2, 100), 3e37)
    rows[0, 1, 5] = torch.inf
    received, rejected = receive(rows.clone(), 1)
    assert rejected.tolist() == [[False, True]]
    assert torch.equal(received[0, 0], rows[0, 0])


def test_rejected_rows_are_still_reported_after_a_snapshot_is_restored():
    simulation = make(attack=OVERFLOWING)
    rejected = simulation.view.rejected
    assert torch.equal(rejected, simulation.byzantine)
    snapshot = simulation.snapshot()
    simulation.apply(uniform_update(simulation))
    assert torch.equal(rejected, simulation.byzantine)  # a view of the past keeps what it has
    simulation.restore(snapshot)
    assert torch.equal(simulation.view.rejected, rejected)


def test_rejected_rows_are_still_reported_while_others_take_steps():
    simulation = make(attack=OVERFLOWING)
    assert torch.equal(simulation.view.rejected, simulation.byzantine)
    simulation.apply(uniform_update(simulation), envs=[0])
    assert torch.equal(simulation.view.rejected, simulation.byzantine)


def test_rows_are_no_longer_reported_as_rejected_once_they_are_sound():
    def spoil_the_first_round(gradients, byzantine, context):
        return torch.where(context.round[:, None, None] == 0, torch.nan, gradients)

    attacks.register("test_spoil", lambda: spoil_the_first_round)
    simulation = make(attack="test_spoil")
    assert torch.equal(simulation.view.rejected, simulation.byzantine)
    simulation.apply(uniform_update(simulation), envs=[1])
    assert torch.equal(simulation.view.rejected[0], simulation.byzantine[0])
    assert not simulation.view.rejected[1].any()


def test_rows_of_1e30_are_received_and_a_robust_rule_survives_them():
    attacks.register(
        "test_huge",
        lambda: lambda gradients, byzantine, context: gradients.new_full((), 1e30).expand_as(gradients),
    )
    simulation = make(attack="test_huge")
    rule = aggregation.make("median", num_byzantine=2)
    for _ in range(20):
        assert not simulation.view.rejected.any()
        simulation.apply(rule(simulation.gradients))
    assert simulation.view.theta.isfinite().all()
    assert not simulation.diverged.any()
    assert (simulation.qv_loss() < 2).all()


def test_an_update_that_is_not_finite_is_refused_and_changes_nothing():
    simulation = make()
    theta = simulation.view.theta.clone()
    update = uniform_update(simulation)
    update[0] = float("nan")
    simulation.apply(update)
    assert simulation.diverged.tolist() == [True, False]
    assert torch.equal(simulation.view.theta[0], theta[0])
    assert not torch.equal(simulation.view.theta[1], theta[1])
    assert simulation.view.previous_update.isfinite().all()
    simulation.apply(torch.full_like(theta, 3e38) * torch.tensor([[0.0], [1.0]]))
    simulation.apply(torch.full_like(theta, -3e38))
    assert simulation.view.theta.isfinite().all()
    assert simulation.qv_loss().isfinite().all()


def test_momentum_that_is_not_finite_is_refused():
    server = Server(resolve(SimulationConfig(task="synthetic", momentum=0.9, learning_rate=1e-30)), 1, 3)
    server.step(torch.full((1, 3), 3e38), None)
    server.step(torch.full((1, 3), 3e38), None)  # 0.9 * 3e38 + 3e38 overflows
    assert server.diverged.all()
    assert server.velocity.isfinite().all()


def test_divergence_is_remembered_and_leaves_the_momentum_alone():
    server = Server(resolve(SimulationConfig(task="synthetic", momentum=0.9)), 2, 3)
    server.step(torch.ones(2, 3), None)
    server.step(torch.tensor([[torch.nan] * 3, [1.0] * 3]), None)
    assert server.velocity[0].tolist() == [1, 1, 1]
    server.step(torch.tensor([[1.0] * 3, [torch.nan] * 3]), None)
    assert server.diverged.tolist() == [True, True]


def test_updates_and_credits_of_double_precision_leave_the_state_in_single():
    simulation, reference = make(momentum=0.5), make(momentum=0.5)
    credits = torch.full((2, 6), 1 / 6)
    simulation.apply(uniform_update(simulation).double(), credits.double())
    reference.apply(uniform_update(reference), credits)
    for name in ("theta", "previous_update", "previous_credits", "gradients"):
        value = getattr(simulation.view, name)
        assert value.dtype == torch.float32
        assert torch.equal(value, getattr(reference.view, name))


def test_credits_of_environments_that_stand_still_are_kept():
    simulation = make()
    credits = torch.zeros(2, 6)
    credits[:, 2] = 1
    simulation.apply(uniform_update(simulation), credits, envs=[1])
    assert simulation.view.previous_credits[0].tolist() == pytest.approx([1 / 6] * 6)
    assert torch.equal(simulation.view.previous_credits[1], credits[1])


def test_update_of_the_wrong_shape_is_named():
    with pytest.raises(ValueError, match="update must have shape"):
        make().apply(torch.zeros(2, 3))


@pytest.mark.parametrize("update", [None, [[0.0]], 0.0])
def test_an_update_that_is_no_tensor_is_named(update):
    with pytest.raises(TypeError, match="update must be a tensor"):
        make().apply(update)


def test_evaluate_against_counting_by_hand():
    simulation = make(num_envs=3)
    x, y = simulation.setup.task.test
    metrics = simulation.evaluate()
    logits = simulation.engine.logits(simulation.view.theta, x.expand(3, *x.shape))
    for e in range(3):
        ranked = logits[e].argsort(1, descending=True)
        assert metrics["accuracy"][e] == pytest.approx((ranked[:, 0] == y).float().mean().item())
        in_top = (ranked[:, :3] == y[:, None]).any(1).float().mean().item()
        assert metrics["top3_accuracy"][e] == pytest.approx(in_top)
        assert metrics["test_loss"][e] == pytest.approx(F.cross_entropy(logits[e], y).item(), rel=1e-4)


def test_a_constant_model_earns_no_accuracy():
    simulation = make()
    simulation.server.theta = torch.zeros_like(simulation.server.theta)
    assert simulation.evaluate()["accuracy"].tolist() == [0.0, 0.0]


def test_top3_accuracy_where_there_are_more_than_three_classes():
    simulation = make(task={"name": "synthetic", "num_classes": 8})
    x, y = simulation.setup.task.test
    logits = simulation.engine.logits(simulation.view.theta, x.expand(2, *x.shape))
    expected = (logits.topk(3, -1).indices == y[:, None]).any(-1).float().mean(1)
    torch.testing.assert_close(simulation.evaluate()["top3_accuracy"], expected)
    assert ((expected > 0) & (expected < 1)).all()


def test_a_model_that_overflows_has_a_finite_test_loss():
    simulation = make()
    simulation.server.theta = torch.full_like(simulation.server.theta, 3e38)
    assert simulation.evaluate()["test_loss"].isfinite().all()
    assert simulation.evaluate()["accuracy"].tolist() == [0, 0]


def test_the_view_gives_no_way_to_what_a_server_does_not_know():
    simulation = make()
    secrets = [
        simulation.setup.task.test[0],
        simulation.setup.task.train[0],
        simulation.workers.assigned,
        simulation.workers.byzantine,
        simulation.workers.attack_of,
    ]
    for view in (simulation.view, simulation.view.of(torch.tensor([1]))):
        reached = list(reachable(view))
        assert all(thing is not simulation for thing in reached)
        pointers = {
            thing.untyped_storage().data_ptr() for thing in reached if isinstance(thing, torch.Tensor)
        }
        assert view.gradients.untyped_storage().data_ptr() in pointers  # the walk finds tensors at all
        for secret in secrets:
            assert secret.untyped_storage().data_ptr() not in pointers


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


@pytest.mark.parametrize(("model", "at_once"), [("mlp:16", 7), ("lenet", 21), ("test_small_cnn", 7)])
def test_evaluation_in_parts_equals_evaluation_at_once(model, at_once, monkeypatch):
    tasks.models.register(
        "test_small_cnn",
        lambda shape, classes: nn.Sequential(
            nn.Conv2d(1, 2, 9), nn.Flatten(), nn.Linear(2 * 20 * 20, classes)
        ),
    )
    generator = torch.Generator().manual_seed(0)
    x, y = torch.rand(90, 1, 28, 28, generator=generator), torch.randint(10, (90,), generator=generator)
    tasks.register("test_images", lambda: tasks.Task((x, y), (x, y), 10, "softmax"))
    simulation = make(3, task="test_images", model=model)
    whole = simulation.evaluate()
    for module in (gradients, modules):
        monkeypatch.setattr(module, "VALUES_AT_ONCE", 28 * 28 * 3 * 7)
    # Large modules are evaluated one environment after the other.
    assert simulation.engine.samples_at_once(3, 28 * 28) == at_once
    for name, values in simulation.evaluate().items():
        torch.testing.assert_close(values, whole[name], rtol=1e-5, atol=1e-6)
