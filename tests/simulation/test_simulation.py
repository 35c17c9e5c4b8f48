"""The round of the simulation against its definition, and everything that must not happen in it."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from byzgym import aggregation, attacks, tasks
from byzgym.simulation import Simulation
from byzgym.simulation.schedules import LearningRate

TINY = {"task": "synthetic", "num_workers": 6, "num_byzantine": 2, "batch_size": 4, "rounds": 20}


def make(num_envs=2, seed=0, **arguments):
    return Simulation.make(num_envs, seed, **{**TINY, **arguments})


def uniform_update(simulation):
    return simulation.gradients.mean(1)


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
    ],
)
def test_schedules(spec, expected):
    assert LearningRate(spec, 4)(torch.arange(5)).tolist() == pytest.approx(expected, abs=1e-6)


def test_honest_submissions_are_gradients_of_the_workers_batches():
    simulation = make(attack="none")
    task = simulation.settings.task
    module = tasks.models.build("mlp:16", task.input_shape, task.num_classes, torch.Generator())
    samples = simulation.workers.batches.samples[:, 0]
    x, y = simulation.settings.task.train
    for e in range(2):
        nn.utils.vector_to_parameters(simulation.view.theta[e].clone(), module.parameters())
        for i in range(6):
            module.zero_grad()
            F.cross_entropy(module(x[samples[e, i]]), y[samples[e, i]]).backward()
            expected = torch.cat([p.grad.flatten() for p in module.parameters()])
            torch.testing.assert_close(simulation.gradients[e, i], expected, rtol=1e-4, atol=1e-6)


def test_workers_draw_from_their_own_share_only():
    simulation = make(partition="shards")
    workers = simulation.workers.batches
    for _ in range(40):
        slot = int(simulation.view.round[0]) % workers.CHUNK
        for e in range(2):
            for i in range(6):
                share = workers.shares[e, i, : workers.lengths[e, i]]
                assert torch.isin(workers.samples[e, slot, i], share).all()
        simulation.apply(uniform_update(simulation))


def test_byzantine_rows_follow_the_attack_and_honest_rows_do_not():
    honest, attacked = make(attack="none"), make(attack={"name": "sign_flip", "scale": 3.0})
    assert torch.equal(honest.byzantine, attacked.byzantine)
    assert attacked.byzantine.sum(1).tolist() == [2, 2]
    mask = attacked.byzantine[..., None]
    torch.testing.assert_close(attacked.gradients, torch.where(mask, -3 * honest.gradients, honest.gradients))


def test_honest_rows_are_put_back_whatever_an_attack_returns_or_overwrites():
    def greedy(gradients, byzantine, context):
        gradients.fill_(5.0)
        byzantine.fill_(True)
        return torch.full_like(gradients, 9.0)

    attacks.register("test_greedy", lambda: greedy)
    honest, attacked = make(attack="none"), make(attack="test_greedy")
    mask = attacked.byzantine
    assert torch.equal(mask, honest.byzantine)
    assert (attacked.gradients[mask] == 9).all()
    assert torch.equal(attacked.gradients[~mask], honest.gradients[~mask])


def test_an_attack_of_the_wrong_shape_is_named():
    attacks.register("test_wrong", lambda: lambda gradients, byzantine, context: gradients[..., :3])
    with pytest.raises(ValueError, match=r"must return a tensor of shape \(2, 6, "):
        make(attack="test_wrong")


def test_attacks_see_the_servers_knowledge_only_if_they_declare_it():
    seen = {}

    class Curious:
        def __init__(self, knowledge=()):
            self.knowledge = frozenset(knowledge)

        def __call__(self, gradients, byzantine, context):
            seen[self.knowledge] = (context.rule, context.qv)
            return gradients

    attacks.register("test_curious", Curious)
    make(attack="test_curious")
    assert seen[frozenset()] == (None, None)
    simulation = make(attack={"name": "test_curious", "knowledge": ["rule", "qv"]})
    simulation.rule = aggregation.make("mean")
    simulation.apply(uniform_update(simulation))
    rule, qv = seen[frozenset({"rule", "qv"})]
    assert rule is simulation.rule
    assert torch.equal(qv[0], simulation.quasi_validation.x)


def test_label_flip_is_the_gradient_of_flipped_labels():
    honest, flipped = make(attack="none"), make(attack="label_flip")
    task = honest.settings.task
    samples = honest.workers.batches.samples[:, 0]
    x, y = task.train[0][samples], task.train[1][samples]
    y = torch.where(honest.byzantine[..., None], task.num_classes - 1 - y, y)
    expected = torch.empty_like(honest.gradients)
    honest.engine.gradients(honest.view.theta, x, y, honest.workers.generators, expected)
    torch.testing.assert_close(flipped.gradients, expected)
    assert not torch.allclose(flipped.gradients, honest.gradients)


def test_worker_momentum_is_an_average_of_honest_gradients():
    plain, smooth = (
        make(attack="none", learning_rate=1e-30),
        make(attack="none", learning_rate=1e-30, worker_momentum=0.75),
    )
    expected = torch.zeros_like(plain.gradients)
    for _ in range(4):
        expected = 0.75 * expected + 0.25 * plain.gradients
        torch.testing.assert_close(smooth.gradients, expected)
        for simulation in (plain, smooth):
            simulation.apply(torch.zeros_like(simulation.view.theta))


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


def test_snapshot_and_restore_repeat_a_run_exactly():
    settings = {
        "attack": ["gaussian", "alie"],
        "roles": {"name": "randomized", "period": 3},
        "momentum": 0.5,
        "worker_momentum": 0.5,
    }
    simulation = make(**settings)

    def play(rounds):
        trace = []
        for _ in range(rounds):
            simulation.apply(1e-3 * uniform_update(simulation), torch.rand(2, 6, generator=torch.Generator()))
            view = simulation.view
            trace.append(
                [
                    view.gradients.clone(),
                    view.theta.clone(),
                    simulation.byzantine.clone(),
                    simulation.qv_loss().clone(),
                    view.previous_credits.clone(),
                    view.round.clone(),
                ]
            )
        return trace

    play(5)
    snapshot = simulation.snapshot()
    gradients = simulation.gradients.clone()
    first = play(25)
    simulation.restore(snapshot)
    assert torch.equal(simulation.gradients, gradients)
    second = play(25)
    assert all(
        torch.equal(a, b) for x, y in zip(first, second, strict=True) for a, b in zip(x, y, strict=True)
    )
    simulation.restore(snapshot)  # a snapshot can be used again
    assert torch.equal(simulation.gradients, gradients)
    with pytest.raises(ValueError, match="snapshot must hold parameters of shape"):
        make(num_envs=3).restore(snapshot)


def test_one_seed_reproduces_everything_and_another_does_not():
    traces = []
    for seed in (3, 3, 4):
        simulation = make(seed=seed, attack=["gaussian", "random"], num_byzantine=(1, 4))
        for _ in range(18):
            simulation.apply(1e-3 * uniform_update(simulation))
        traces.append(
            (simulation.gradients.clone(), simulation.view.theta.clone(), simulation.byzantine.clone())
        )
    assert all(torch.equal(a, b) for a, b in zip(traces[0], traces[1], strict=True))
    assert not torch.equal(traces[0][1], traces[2][1])


@pytest.mark.parametrize("model", ["mlp:16", "softmax"])
def test_environment_of_a_batch_equals_the_simulation_alone(model):
    arguments = {
        "model": model,
        "attack": ["gaussian", "sign_flip", "ipm", "alie", "random", "label_flip"],
        "num_byzantine": (0, 5),
        "roles": {"name": "randomized", "period": 4, "fixed_honest": False},
        "partition": "dirichlet",
        "worker_momentum": 0.3,
        "rounds": 40,
    }
    batch = make(num_envs=7, seed=10, **arguments)
    singles = [make(num_envs=1, seed=10 + e, **arguments) for e in range(7)]
    for _ in range(20):
        for simulation in (batch, *singles):
            simulation.apply(1e-3 * uniform_update(simulation))
    for e, single in enumerate(singles):
        assert torch.equal(batch.byzantine[e], single.byzantine[0])
        assert batch.attack_names[e] == single.attack_names[0]
        torch.testing.assert_close(batch.gradients[e], single.gradients[0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(batch.view.theta[e], single.view.theta[0], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(batch.qv_loss()[e], single.qv_loss()[0], rtol=1e-4, atol=1e-5)


def test_environments_can_stand_still_while_others_go_on():
    simulation, reference = make(attack="gaussian"), make(attack="gaussian")
    before = simulation.gradients[0].clone(), simulation.view.theta[0].clone()
    for _ in range(3):
        simulation.apply(1e-3 * uniform_update(simulation), envs=[1])
        reference.apply(1e-3 * uniform_update(reference))
    assert torch.equal(simulation.gradients[0], before[0])
    assert torch.equal(simulation.view.theta[0], before[1])
    assert simulation.view.round.tolist() == [0, 3]
    torch.testing.assert_close(simulation.view.theta[1], reference.view.theta[1])
    torch.testing.assert_close(simulation.gradients[1], reference.gradients[1])


def test_per_environment_overrides():
    simulation = make(
        num_envs=3,
        attack="zero",
        per_environment=[{"attack": "ipm"}, {}, {"attack": ["sign_flip"], "num_byzantine": 5}],
    )
    assert simulation.attack_names == ["ipm", "zero", "sign_flip"]
    assert simulation.byzantine.sum(1).tolist() == [2, 2, 5]
    with pytest.raises(ValueError, match="per_environment may override"):
        make(per_environment=[{"rounds": 3}, {}])
    with pytest.raises(ValueError, match="per_environment must have num_envs=2"):
        make(per_environment=[{}])


def test_evaluate_against_counting_by_hand():
    simulation = make(num_envs=3)
    x, y = simulation.settings.task.test
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


def test_the_view_gives_no_way_to_what_a_server_does_not_know():
    simulation = make()
    secrets = [
        simulation.settings.task.test[0],
        simulation.settings.task.train[0],
        simulation.workers.assigned,
        simulation.workers.byzantine,
        simulation.workers.attack_of,
    ]
    view = simulation.view
    seen, queue, tensors = set(), [view], []
    while queue:
        thing = queue.pop()
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        if isinstance(thing, torch.Tensor):
            tensors.append(thing)
            continue
        assert thing is not simulation
        if isinstance(thing, dict):
            queue += list(thing.values())
        elif isinstance(thing, list | tuple):
            queue += list(thing)
        else:
            queue += list(getattr(thing, "__dict__", {}).values())
            queue += [getattr(thing, "__self__", None)]
            queue += [cell.cell_contents for cell in getattr(thing, "__closure__", None) or ()]
    pointers = {tensor.untyped_storage().data_ptr() for tensor in tensors}
    assert view.gradients.untyped_storage().data_ptr() in pointers  # the walk finds tensors at all
    for secret in secrets:
        assert secret.untyped_storage().data_ptr() not in pointers


def test_qv_samples_are_in_no_workers_share_nor_in_the_test_data():
    simulation = make(num_envs=3, task="digits")
    task = simulation.settings.task
    qv = {tuple(row.tolist()) for row in simulation.quasi_validation.x.flatten(0, 1).flatten(1)}
    held_out = {tuple(row.tolist()) for row in task.held_out[0].flatten(1)}
    train = {tuple(row.tolist()) for row in task.train[0].flatten(1)}
    assert qv <= held_out
    assert not qv & train
    assert not qv & {tuple(row.tolist()) for row in task.test[0].flatten(1)}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"task": "nope"}, "unknown task 'nope'; known: .*digits"),
        ({"attack": "nope"}, "unknown attack 'nope'; known: .*alie"),
        ({"attack": []}, "attack must be a name"),
        ({"attack": {"epsilon": 1}}, "needs the key 'name'"),
        ({"roles": "nope"}, "unknown role function 'nope'; known: .*static"),
        ({"partition": "nope"}, "unknown partition.*'nope'; known: .*iid"),
        ({"qv_source": "nope"}, "unknown .*'nope'; known: .*held_out"),
        ({"model": "nope"}, "unknown model 'nope'"),
        ({"num_workers": 0}, "num_workers must be an integer of at least 1, got 0"),
        ({"num_byzantine": 6}, "num_byzantine must be an integer from 0 to 5, got 6"),
        ({"num_byzantine": -1}, "num_byzantine must be an integer from 0 to 5, got -1"),
        ({"num_byzantine": (3, 2)}, r"num_byzantine\[1\] must be an integer from 3 to 5, got 2"),
        ({"num_byzantine": (1, 2, 3)}, "num_byzantine must be an integer or"),
        ({"num_byzantine": 1.5}, "num_byzantine must be an integer"),
        ({"learning_rate": -0.1}, "learning_rate must be a finite number greater than 0, got -0.1"),
        ({"learning_rate": {"initial": 0.1, "schedule": "nope"}}, "must be one of 'constant'"),
        ({"learning_rate": {"initial": 0.1, "every": 3}}, "has no key 'every'"),
        ({"momentum": 1.0}, "momentum must be at least 0 and less than 1"),
        ({"worker_momentum": -0.1}, "worker_momentum must be"),
        ({"qv_size": 100_000}, "qv_size.*100000|qv_size.*100,000"),
        ({"qv_size": 0}, "qv_size must be an integer of at least 1"),
        ({"batch_size": 0}, "batch_size must be an integer of at least 1"),
        ({"secure_group_size": 4}, "secure_group_size must divide num_workers=6, got 4"),
        ({"rounds": 0}, "rounds must be an integer of at least 1"),
        ({"device": "abacus"}, "device must be a torch device"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        make(**arguments)


def test_unknown_arguments_and_parameters_are_named():
    with pytest.raises(TypeError, match="num_wrokers"):
        make(num_wrokers=3)
    with pytest.raises(TypeError, match=r"attack 'ipm'.*eps"):
        make(attack={"name": "ipm", "eps": 1})


def test_update_of_the_wrong_shape_is_named():
    with pytest.raises(ValueError, match="update must have shape"):
        make().apply(torch.zeros(2, 3))


def test_numpy_global_generator_is_left_alone():
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    simulation = make(attack=["gaussian"], partition="dirichlet")
    simulation.apply(uniform_update(simulation))
    assert (np.random.get_state()[1] == before).all()  # noqa: NPY002
