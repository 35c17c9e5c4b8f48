"""Runs of the simulation: seeds, snapshots, batches of environments, and its arguments."""

import numpy as np
import pytest
import torch
from simulation_cases import make, uniform_update

from byzgym import attacks


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
            credits = torch.rand(2, 6, generator=torch.Generator()) / 6
            simulation.apply(1e-3 * uniform_update(simulation), credits)
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
    for overrides in ([{}], [1, 2]):
        with pytest.raises(ValueError, match="per_environment must be a list of num_envs=2 mappings"):
            make(per_environment=overrides)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"task": "nope"}, "unknown task 'nope'; known: .*digits"),
        ({"attack": "nope"}, "unknown attack 'nope'; known: .*alie"),
        ({"attack": []}, "attack must be a name"),
        ({"attack": {"epsilon": 1}}, "needs the key 'name'"),
        ({"attack": None}, "attack must be a name.*got None"),
        ({"attack": 3}, "attack must be a name.*got 3"),
        ({"attack": {"ipm"}}, "attack must be a name.*got {'ipm'}"),
        ({"attack": attacks.make("ipm")}, "attack must be a name"),
        ({"roles": "nope"}, "unknown role function 'nope'; known: .*static"),
        ({"partition": "nope"}, "unknown partition.*'nope'; known: .*iid"),
        ({"qv_source": "nope"}, "unknown .*'nope'; known: .*held_out"),
        ({"model": "nope"}, "unknown model 'nope'"),
        ({"num_workers": 0}, "num_workers must be an integer of at least 1, got 0"),
        ({"num_byzantine": 6}, "num_byzantine must be an integer from 0 to 5, got 6"),
        ({"num_byzantine": -1}, "num_byzantine must be an integer from 0 to 5, got -1"),
        ({"num_byzantine": (3, 2)}, r"num_byzantine\[1\] must be an integer from 3 to 5, got 2"),
        ({"num_byzantine": (1, 2, 3)}, "num_byzantine must be an integer or"),
        ({"num_byzantine": (6, 6)}, r"num_byzantine\[0\] must be an integer from 0 to 5, got 6"),
        ({"num_byzantine": (0, 6)}, r"num_byzantine\[1\] must be an integer from 0 to 5, got 6"),
        ({"num_byzantine": 1.5}, "num_byzantine must be an integer"),
        ({"learning_rate": -0.1}, "learning_rate must be a finite number greater than 0"),
        ({"learning_rate": {"initial": 0.1, "schedule": "nope"}}, "must be one of 'constant'"),
        ({"learning_rate": {"initial": 0.1, "every": 3}}, "has no key 'every'"),
        (
            {"learning_rate": {"initial": 1.0, "schedule": "linear", "final": 2.0}},
            r"learning_rate\['final'\] must be a finite number from 0 to 1.0, got 2.0",
        ),
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


def test_another_default_dtype_is_named():
    torch.set_default_dtype(torch.float64)
    try:
        with pytest.raises(ValueError, match=r"default dtype must be torch.float32, got torch.float64"):
            make()
    finally:
        torch.set_default_dtype(torch.float32)


def test_numpy_global_generator_is_left_alone():
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    simulation = make(attack=["gaussian"], partition="dirichlet")
    simulation.apply(uniform_update(simulation))
    assert (np.random.get_state()[1] == before).all()  # noqa: NPY002


def test_what_is_applied_is_copied():
    simulation = make()
    update, credits = uniform_update(simulation), torch.full((6,), 1 / 6)
    simulation.apply(update, credits.expand(2, 6))
    kept = update.clone()
    update.fill_(7), credits.fill_(7)
    assert torch.equal(simulation.view.previous_update, kept)
    assert (simulation.view.previous_credits == 1 / 6).all()
    update = uniform_update(simulation)
    simulation.apply(update)
    kept = update.clone()
    simulation.reset([1], [0])
    assert torch.equal(update, kept)
    assert torch.equal(simulation.view.previous_update[1], kept[1])


@pytest.mark.parametrize(
    ("credits", "error", "message"),
    [
        ([[0.1] * 6] * 2, TypeError, "credits must be a tensor, got list"),
        (torch.ones(2, 3) / 3, ValueError, r"credits must have shape \(2, 6\), got \(2, 3\)"),
        (torch.full((2, 6), torch.nan), ValueError, "credits must not be negative"),
        (torch.full((2, 6), 0.2), ValueError, "credits must not be negative and must sum to at most 1"),
        (torch.full((2, 6), 7.0), ValueError, "credits must not be negative and must sum to at most 1"),
        (torch.tensor([[1.5, -0.5, 0, 0, 0, 0]] * 2), ValueError, "credits must not be negative"),
    ],
)
def test_credits_are_checked_before_anything_moves(credits, error, message):
    simulation, twin = make(), make()
    with pytest.raises(error, match=message):
        simulation.apply(uniform_update(simulation), credits)
    assert int(simulation.view.round[0]) == 0
    for each in (simulation, twin):
        each.apply(uniform_update(each))
    assert torch.equal(simulation.view.gradients, twin.view.gradients)


def test_restore_after_a_reset_with_shares_of_other_lengths():
    grown = 0
    for seed in range(4):
        simulation = make(1, seed, task="digits", partition="dirichlet", num_workers=10)
        width = simulation.workers.batches.shares.shape[2]
        snapshot = simulation.snapshot()
        simulation.apply(uniform_update(simulation))
        expected = simulation.gradients.clone()
        simulation.reset([seed + 100])
        grown += simulation.workers.batches.shares.shape[2] > width
        simulation.restore(snapshot)
        assert torch.equal(simulation.initial_loss, simulation.qv_loss())
        simulation.apply(uniform_update(simulation))
        assert torch.equal(simulation.gradients, expected)
    assert grown


@pytest.mark.parametrize(
    "spoil",
    ["none", "empty", "nothing in it", "no generators", "a generator missing", "another attack", "double"],
)
def test_restore_of_a_bad_snapshot_changes_nothing(spoil):
    simulation, twin = make(attack=["ipm", "alie"]), make(attack=["ipm", "alie"])
    snapshot = simulation.snapshot()
    if spoil == "none":
        snapshot = None
    elif spoil == "empty":
        snapshot = {"state": {}, "generators": []}
    elif spoil == "nothing in it":
        snapshot = {"state": None, "generators": None}
    elif spoil == "double":
        snapshot["state"]["server"]["theta"] = snapshot["state"]["server"]["theta"].double()
    elif spoil == "no generators":
        del snapshot["generators"]
    elif spoil == "a generator missing":
        del snapshot["generators"][1]
    else:
        snapshot["state"]["workers"]["attack_of"][0] = 2
    simulation.apply(uniform_update(simulation))
    twin.apply(uniform_update(twin))
    with pytest.raises(ValueError, match="snapshot must be"):
        simulation.restore(snapshot)
    for each in (simulation, twin):
        each.apply(uniform_update(each))
    assert torch.equal(simulation.gradients, twin.gradients)


def test_a_restore_in_inference_mode_spoils_nothing():
    settings = {"momentum": 0.5, "worker_momentum": 0.5, "roles": "randomized"}
    simulation, twin = make(**settings), make(**settings)
    with torch.inference_mode():
        simulation.restore(simulation.snapshot())
    for each in (simulation, twin):
        for envs in (None, [1]):
            each.apply(uniform_update(each), envs=envs)
        each.reset([5], [0])
    assert torch.equal(simulation.gradients, twin.gradients)


def test_unknown_arguments_are_named():
    with pytest.raises(TypeError, match="unknown argument 'workers'; known: task, model, num_workers"):
        make(workers=3)
    for argument in ("roles", "qv_source", "partition", "attack"):
        with pytest.raises(ValueError, match=f"{argument}.*'nobody'; known: "):
            make(**{argument: "nobody"})
    for seed in (-1, "a", 0.5):
        with pytest.raises(ValueError, match=r"seed \(unless None\) must be an integer of at least 0"):
            make(seed=seed)
