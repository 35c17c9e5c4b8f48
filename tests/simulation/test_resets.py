"""What a reset draws and forgets, and what `restore` brings back."""

import pytest
import torch
from simulation_cases import make, uniform_update


def test_a_reset_forgets_everything_of_the_episode_before():
    settings = {
        "momentum": 0.9,
        "worker_momentum": 0.5,
        "attack": ["gaussian", "ipm", "sign_flip"],
        "num_byzantine": (0, 5),
        "roles": {"name": "randomized", "period": 2},
    }
    used, credits = make(1, **settings), torch.eye(6)[:1]
    for _ in range(5):
        used.apply(1e-3 * uniform_update(used), credits)
    used.apply(torch.full_like(used.view.theta, torch.nan), credits)
    assert used.diverged.all()
    fields = ("theta", "gradients", "round", "previous_update", "previous_credits", "learning_rate")
    for seed in (11, 12, 13):
        fresh = make(1, **settings)
        for simulation in (used, fresh):
            simulation.reset([seed])
        for _ in range(4):
            assert torch.equal(used.byzantine, fresh.byzantine)
            assert used.attack_names == fresh.attack_names
            assert not used.diverged.any()
            for name in fields:
                assert torch.equal(getattr(used.view, name), getattr(fresh.view, name)), name
            assert torch.equal(used.qv_loss(), fresh.qv_loss())
            for simulation in (used, fresh):
                simulation.apply(1e-3 * uniform_update(simulation), credits)


def test_the_number_the_members_and_the_attack_are_drawn_from_all_that_are_allowed():
    simulation = make(1, num_byzantine=(1, 3), attack=["zero", "ipm"])
    numbers, members, names = set(), set(), set()
    for seed in range(60):
        simulation.reset([seed])
        chosen = simulation.byzantine[0].nonzero()[:, 0].tolist()
        numbers.add(len(chosen))
        members.update(chosen)
        names.update(simulation.attack_names)
    assert numbers == {1, 2, 3}
    assert members == set(range(6))
    assert names == {"zero", "ipm"}


def test_restore_brings_back_the_attacks_and_the_qv_samples_of_a_former_episode():
    simulation = make(4, attack=["zero", "ipm", "gaussian"])
    for seeds in ([1, 2, 3, 4], [5, 6, 7, 8]):
        simulation.apply(1e-3 * uniform_update(simulation))
        snapshot, loss, names = simulation.snapshot(), simulation.qv_loss().clone(), simulation.attack_names
        simulation.apply(1e-3 * uniform_update(simulation))
        following = simulation.gradients.clone()
        simulation.reset(seeds)
        simulation.apply(1e-3 * uniform_update(simulation))
        assert simulation.attack_names != names
        simulation.restore(snapshot)
        assert simulation.attack_names == names
        assert torch.equal(simulation.qv_loss(), loss)
        simulation.apply(1e-3 * uniform_update(simulation))
        assert torch.equal(simulation.gradients, following)


def test_a_snapshot_of_more_samples_than_there_are_is_refused():
    few, many = (make(task={"name": "synthetic", "num_samples": number}) for number in (200, 400))
    many.restore(few.snapshot())
    with pytest.raises(ValueError, match="of a simulation like this one, got one with more samples"):
        few.restore(make(task={"name": "synthetic", "num_samples": 400}).snapshot())


def test_a_snapshot_without_states_of_generators_changes_nothing():
    simulation = make()
    snapshot, before = simulation.snapshot(), simulation.gradients.clone()
    simulation.apply(torch.ones_like(simulation.view.theta))
    after = simulation.gradients.clone()
    snapshot["generators"][1] = torch.zeros_like(snapshot["generators"][1])
    with pytest.raises(ValueError, match="snapshot must hold states of generators"):
        simulation.restore(snapshot)
    assert torch.equal(simulation.gradients, after)
    assert not torch.equal(after, before)


@pytest.mark.parametrize(
    "arguments",
    [
        {"num_envs": 3},
        {"num_workers": 4},
        {"batch_size": 5},
        {"model": "softmax"},
        {"momentum": 0.5},
        {"qv_size": 3},
        {"secure_group_size": 2},
    ],
)
def test_a_snapshot_of_a_simulation_of_another_shape_is_refused_and_changes_nothing(arguments):
    simulation, other = make(), make(seed=5, **arguments)
    before = simulation.gradients.clone(), simulation.view.theta.clone()
    with pytest.raises(ValueError, match="snapshot must be of a simulation like this one"):
        simulation.restore(other.snapshot())
    with pytest.raises(ValueError, match="snapshot must be of a simulation like this one"):
        other.restore(simulation.snapshot())
    assert torch.equal(simulation.gradients, before[0])
    assert torch.equal(simulation.view.theta, before[1])
