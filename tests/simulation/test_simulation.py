"""Episodes of many environments at once: seeds, rounds, resets, memories, failures and copies."""

import copy
import pickle
from functools import partial

import pytest
import torch
from simulation_cases import Replay, assert_same, make, make_remembering, play, state_of, uniform_update

from byzgym import aggregation, attacks
from byzgym.aggregation import Decision


def test_one_seed_reproduces_everything():
    one, again, other = (make_remembering(seed=seed) for seed in (3, 3, 4))
    play(one, again, other, rounds=18)
    assert_same(one, again)
    assert not torch.equal(one.view.theta, other.view.theta)


@pytest.mark.parametrize("model", ["mlp:16", "softmax"])
def test_a_batch_equals_its_environments_alone(model):
    batch = make_remembering(5, seed=10, model=model)
    alone = [make_remembering(1, seed=10 + env, model=model) for env in range(5)]
    for number in range(20):
        playing = [env for env in (4, 0, 2, 1, 3) if (number + env) % 3] if number % 2 else None
        play(batch, envs=playing)
        play(*(alone[env] for env in (range(5) if playing is None else playing)))
        if number % 7 == 6:
            batch.reset([number, number + 1], [3, 1])
            alone[3].reset([number])
            alone[1].reset([number + 1])
        for env, single in enumerate(alone):
            assert_same(batch, single, [env])


def test_a_reset_forgets_everything():
    used = make_remembering(1)
    play(used, rounds=5)
    used.apply(Decision(torch.full_like(used.view.theta, torch.nan), torch.eye(6)[:1]))
    assert used.diverged.all()
    for seed in (11, 12, 13):
        fresh = make_remembering(1)
        for simulation in (used, fresh):
            simulation.reset([seed])
        assert (used.view.previous_credits == 1 / 6).all()
        for _ in range(4):
            assert_same(used, fresh)
            play(used, fresh)


def test_everything_that_is_allowed_is_drawn():
    simulation = make(1, num_byzantine=(1, 3), attack=["zero", "ipm"])
    numbers, members, names = set(), set(), set()
    for seed in range(60):
        simulation.reset([seed])
        chosen = simulation.byzantine[0].nonzero()[:, 0].tolist()
        numbers.add(len(chosen))
        members.update(chosen)
        names.update(simulation.attack_names)
    assert (numbers, members, names) == ({1, 2, 3}, set(range(6)), {"zero", "ipm"})


def test_attack_and_f_of_one_episode():
    simulation, told = make(3, attack="zero"), make(1, attack="ipm:epsilon=3.0", num_byzantine=4)
    simulation.reset([1, 2], [0, 2], attack="ipm:epsilon=3.0", num_byzantine=4)
    told.reset([2])
    assert simulation.attack_names == ["ipm:epsilon=3.0", "zero", "ipm:epsilon=3.0"]
    assert simulation.byzantine.sum(1).tolist() == [4, 2, 4]
    play(simulation, told, rounds=3)
    assert_same(simulation, told, [2])
    simulation.reset([1, 2, 3], attack=["ipm:epsilon=3.0"], num_byzantine=(0, 0))
    assert len(simulation.workers.attacks) == 2  # the second is known already
    assert not simulation.byzantine.any()
    simulation.reset([1, 2, 3])
    assert simulation.attack_names == ["zero"] * 3
    assert simulation.byzantine.sum(1).tolist() == [2, 2, 2]


def test_the_order_of_envs_means_nothing():
    one, other = (make_remembering(3, attack=Replay()) for _ in range(2))
    play(one, rounds=3)
    for _ in range(3):
        play(other, envs=[2, 0, 1])
    assert_same(one, other)


def test_what_is_applied_is_copied():
    simulation, reference = make(momentum=0.5), make(momentum=0.5)
    graph = torch.ones((), dtype=torch.float64, requires_grad=True)
    update, credits = graph * uniform_update(simulation), graph * torch.full((2, 6), 1 / 6)
    reference.apply(Decision(update.detach().float(), credits.detach().float()))
    simulation.apply(Decision(update, credits))
    with torch.no_grad():
        update.fill_(7), credits.fill_(7)
    assert_same(simulation, reference)
    assert not simulation.view.theta.requires_grad
    assert not simulation.view.previous_credits.requires_grad
    update = uniform_update(simulation)
    simulation.apply(update)
    kept = update.clone()
    simulation.reset([1], [0])
    assert torch.equal(update, kept)


def test_credits_are_remembered_for_the_next_view():
    simulation = make(3)
    update, credits = uniform_update(simulation), torch.eye(6)[2].repeat(3, 1)
    credits[2] = torch.nan  # a decision without credits in this environment
    expected = torch.full((3, 6), 1 / 6)
    expected[1] = credits[1]
    simulation.apply(Decision(update, credits), envs=[1, 2])
    for _ in range(2):
        assert torch.equal(simulation.view.previous_credits, expected)
        simulation.apply(update)


BAD_DECISIONS = [
    (None, TypeError, "update must be a tensor, got NoneType"),
    (torch.zeros(2, 195).numpy(), TypeError, "update must be a tensor, got ndarray"),
    (torch.zeros(2, 195).to_sparse(), TypeError, "update must be a dense tensor"),
    (torch.zeros(2, 195, dtype=torch.complex64), TypeError, "update must be a dense tensor of real"),
    (torch.zeros(2, 3), ValueError, r"update must have shape \[2, 195\], got \[2, 3\]"),
    (Decision(torch.zeros(2, 195), torch.ones(2, 3) / 3), ValueError, r"credits must have shape \[2, 6\]"),
]
BAD_ENVS = [[7], [-1], [True, False], [1.0], [0, 0], torch.tensor([0.0]), 0, "12", torch.tensor(1)]
BAD_SEEDS = [[5, 2**70], [5, -1], [5, 2**63], [5, 1.5], [5, None], [1], [1, 2, 3], 0, "12", None]
BAD_CHOICES = [{"attack": "nope"}, {"attack": []}, {"num_byzantine": 6}, {"num_byzantine": (3, 2)}]


def test_bad_arguments_change_nothing():
    simulation = make()
    state, update = state_of(simulation), uniform_update(simulation)
    apply, reset = simulation.apply, simulation.reset
    calls = [
        *((partial(apply, given), error, message) for given, error, message in BAD_DECISIONS),
        *((partial(apply, update, envs), ValueError, "envs") for envs in BAD_ENVS),
        *((partial(reset, [1], envs), ValueError, "envs") for envs in BAD_ENVS),
        *((partial(reset, seeds), ValueError, "seeds") for seeds in BAD_SEEDS),
        *((partial(reset, [1, 2], **choice), ValueError, next(iter(choice))) for choice in BAD_CHOICES),
    ]
    for call, error, message in calls:
        with pytest.raises(error, match=message):
            call()
        assert_same(simulation, state)


def test_rules_that_attacks_are_shown(rules_seen):
    simulation = make(3, attack="curious")
    assert type(rules_seen[-1]).__name__ == "Mean"
    first, second = (aggregation.make(name, num_byzantine=1) for name in ("median", "krum"))
    simulation.rule = first
    play(simulation)
    assert rules_seen[-1] is first
    rows = simulation.gradients.clone()
    simulation.use_rules([first, second], torch.tensor([1, 0, 1]))
    play(simulation, envs=[0, 1])
    assert torch.equal(rules_seen[-1](rows[:2]), torch.stack([second(rows[0]), first(rows[1])]))
    simulation.reset([5], [2])
    assert torch.equal(rules_seen[-1](rows[2:]), first(rows[2:]))


@pytest.mark.parametrize("mend", ["restore", "reset"])
@pytest.mark.parametrize("failing", ["apply", "reset"])
def test_a_round_that_failed_must_be_mended(mend, failing):
    def attack(gradients, byzantine, context):
        assert not broken
        return -gradients

    broken = []
    simulation, sound = make(attack=attack), make(attack=attack)
    snapshot, update = simulation.snapshot(), uniform_update(simulation)
    broken.append(True)
    with pytest.raises(AssertionError):
        simulation.apply(update) if failing == "apply" else simulation.reset([7, 8])
    broken.clear()
    for call in (simulation.qv_loss, partial(simulation.apply, update), partial(simulation.reset, [3], [0])):
        with pytest.raises(RuntimeError, match=r"failed half way, in an attack, .*; reset all"):
            call()
    if mend == "restore":
        simulation.restore(snapshot)
    else:
        simulation.reset([3, 4])
        sound.reset([3, 4])
    play(simulation, sound)
    assert_same(simulation, sound)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
def test_copies_play_on_apart(copied):
    simulation = make_remembering()
    play(simulation, rounds=3)
    other = copied(simulation)
    state, memory = state_of(simulation), simulation.memory.state()
    play(other, rounds=4)
    assert_same(simulation, state)
    assert torch.equal(simulation.memory.state()["slow"], memory["slow"])
    play(simulation, rounds=4)
    assert_same(simulation, other)
    if copied is copy.deepcopy:
        assert other.setup.task is simulation.setup.task  # immutable, and large


def test_an_attack_that_is_registered_again_replaces_the_first():
    simulation = make(1)
    for number in (1, 2, 2):
        attacks.register(
            "mine", lambda number=number: lambda g, byzantine, context: torch.full_like(g, number)
        )
        simulation.reset([0], attack="mine", num_byzantine=2)
        assert (simulation.gradients[simulation.byzantine] == number).all()


def test_a_default_dtype_that_changes_later():
    expected, simulation = make(), make()
    torch.set_default_dtype(torch.float64)
    try:
        for _ in range(20):
            simulation.apply(simulation.gradients.mean(1))
    finally:
        torch.set_default_dtype(torch.float32)
    for _ in range(20):
        expected.apply(expected.gradients.mean(1))
    assert simulation.server.theta.dtype == torch.float32
    assert torch.equal(simulation.server.theta, expected.server.theta)
