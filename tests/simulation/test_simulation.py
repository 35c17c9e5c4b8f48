"""Episodes of many environments at once: seeds, rounds, resets, memories, failures and copies."""

import copy
import pickle

import pytest
import torch
from simulation_cases import EVERYTHING, assert_same, make, play, state_of, uniform_update

from byzgym import aggregation, attacks, tasks
from byzgym.aggregation import Decision


class Momentum(aggregation.ServerRule):
    """Momentum over the rounds."""

    needs = frozenset({"memory"})

    def _decide(self, view):
        update = 0.5 * view.memory.read("momentum", view.theta.shape[1]) + view.gradients.mean(1)
        view.memory.write("momentum", update)
        return Decision(1e-3 * update)


class Replay(attacks.Attack):
    """Sends what was there before."""

    def corrupt(self, gradients, byzantine, context):
        last = context.memory.read("last", *gradients.shape[1:])
        context.memory.write("last", gradients + last / 2)
        return last


def alternating(assigned, current, context):
    """Everybody assigned attacks in two of three rounds of its own count."""
    count = context.memory.read("count", dtype=torch.int64)
    context.memory.write("count", count + 1)
    return assigned & (count % 3 > 0)[:, None]


@pytest.fixture
def remembering():
    """Arguments with an attack and roles that keep something."""
    attacks.register("test_replay", Replay)
    attacks.roles.register("test_alternating", lambda: alternating)
    return {**EVERYTHING, "attack": ["test_replay", "alie"], "roles": "test_alternating", "num_byzantine": (2, 4)}


def run(simulation, rounds=1, envs=None):
    for _ in range(rounds):
        simulation.apply(Momentum().decide(simulation.view), envs)


def test_one_seed_reproduces_everything():
    one, again, other = (make(seed=seed, **EVERYTHING) for seed in (3, 3, 4))
    play(one, again, other, rounds=18)
    assert_same(one, again)
    assert not torch.equal(one.view.theta, other.view.theta)


@pytest.mark.parametrize("model", ["mlp:16", "softmax"])
def test_an_environment_of_a_batch_equals_one_alone(model):
    batch = make(5, seed=10, model=model, **EVERYTHING)
    alone = [make(1, seed=10 + env, model=model, **EVERYTHING) for env in range(5)]
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


def test_memories_equal_those_of_each_alone(remembering):
    batch, alone = make(4, seed=10, **remembering), [make(1, seed=10 + e, **remembering) for e in range(4)]
    assert batch.workers.attack_of.unique().tolist() == [0, 1]
    for number, envs in enumerate([None, [2, 0], None, [1], [3, 1, 2], None, None]):
        memory = batch.memory
        if envs is None:
            run(batch)
        else:  # the rule decides for those that play, and keeps nothing for the others
            update = torch.zeros_like(batch.view.theta)
            update[envs] = Momentum().decide(batch.view.of(torch.tensor(envs))).update
            batch.apply(update, envs)
        for env in range(4) if envs is None else envs:
            run(alone[env])
        if number == 4:
            batch.reset([5], [2])
            alone[2].reset([5])
        assert batch.memory is memory
        for env, single in enumerate(alone):
            assert_same(batch, single, [env])


def test_simulations_do_not_share_memories(remembering):
    one, other = make(**remembering), make(**remembering)
    run(one, 4)
    run(other, 4)
    assert_same(one, other)


def test_a_reset_forgets_everything(remembering):
    used, credits = make(1, **remembering), torch.eye(6)[:1]
    run(used, 5)
    used.apply(Decision(torch.full_like(used.view.theta, torch.nan), credits))
    assert used.diverged.all()
    for seed in (11, 12, 13):
        fresh = make(1, **remembering)
        for simulation in (used, fresh):
            simulation.reset([seed])
        assert (used.view.previous_credits == 1 / 6).all()
        for _ in range(4):
            assert_same(used, fresh)
            for simulation in (used, fresh):
                run(simulation)


def test_everything_that_is_allowed_is_drawn():
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


def test_attack_and_f_of_one_episode():
    simulation = make(3, attack="zero")
    simulation.reset([1, 2], [0, 2], attack="ipm:epsilon=3.0", num_byzantine=4)
    assert simulation.attack_names == ["ipm:epsilon=3.0", "zero", "ipm:epsilon=3.0"]
    assert simulation.byzantine.sum(1).tolist() == [4, 2, 4]
    told = make(1, attack="ipm:epsilon=3.0", num_byzantine=4)
    told.reset([2])
    play(simulation, told, rounds=3)
    state = state_of(told)
    del state["attacks"]
    assert_same(simulation, state, [2])
    simulation.reset([1, 2, 3], attack=["ipm:epsilon=3.0"], num_byzantine=(0, 0))
    assert len(simulation.workers.attacks) == 2  # the second is known already
    assert not simulation.byzantine.any()
    simulation.reset([1, 2, 3])
    assert simulation.attack_names == ["zero"] * 3
    assert simulation.byzantine.sum(1).tolist() == [2, 2, 2]


def test_bad_choices_of_an_episode_change_nothing():
    simulation = make()
    state = state_of(simulation)
    for choice in ({"attack": "nope"}, {"attack": []}, {"num_byzantine": 6}, {"num_byzantine": (3, 2)}):
        with pytest.raises(ValueError, match=next(iter(choice))):
            simulation.reset([1, 2], **choice)
    assert_same(simulation, state)


def test_what_is_applied_is_copied():
    simulation = make()
    update, credits = uniform_update(simulation).clone().requires_grad_() * 1, torch.full((2, 6), 1 / 6)
    simulation.apply(Decision(update, credits))
    kept = update.detach().clone()
    with torch.no_grad():
        update.fill_(7), credits.fill_(7)
    view = simulation.view
    assert torch.equal(view.previous_update, kept)
    assert (view.previous_credits == 1 / 6).all()
    assert not (view.theta.requires_grad or view.previous_update.requires_grad)
    update = uniform_update(simulation)
    simulation.apply(update)
    kept = update.clone()
    simulation.reset([1], [0])
    assert torch.equal(update, kept)
    assert torch.equal(simulation.view.previous_update[1], kept[1])


def test_double_precision_leaves_the_state_in_single():
    simulation, reference = make(momentum=0.5), make(momentum=0.5)
    credits = torch.full((2, 6), 1 / 6, requires_grad=True)
    simulation.apply(Decision(uniform_update(simulation).double(), credits.double()))
    reference.apply(Decision(uniform_update(reference), credits))
    assert_same(simulation, reference)
    assert not simulation.view.previous_credits.requires_grad


def test_credits_are_remembered_for_the_next_view():
    simulation = make(3)
    update, credits = uniform_update(simulation), torch.eye(6)[2].repeat(3, 1)
    credits[2] = torch.nan  # a decision without credits in this environment
    simulation.apply(Decision(update, credits), envs=[1, 2])
    expected = torch.full((3, 6), 1 / 6)
    expected[1] = credits[1]
    assert torch.equal(simulation.view.previous_credits, expected)
    simulation.apply(update)
    assert torch.equal(simulation.view.previous_credits, expected)


@pytest.mark.parametrize(
    ("decision", "error", "message"),
    [
        (None, TypeError, "update must be a tensor, got NoneType"),
        (torch.zeros(2, 195).numpy(), TypeError, "update must be a tensor, got ndarray"),
        (torch.zeros(2, 195).to_sparse(), TypeError, "update must be a dense tensor"),
        (torch.zeros(2, 195, dtype=torch.complex64), TypeError, "update must be a dense tensor of real"),
        (torch.zeros(2, 3), ValueError, r"update must have shape \[2, 195\], got \[2, 3\]"),
        (Decision(torch.zeros(2, 195), torch.ones(2, 3) / 3), ValueError, r"credits must have shape \[2, 6\]"),
    ],
    ids=["none", "numpy", "sparse", "complex", "shape", "credits"],
)
def test_bad_decisions_change_nothing(decision, error, message):
    simulation = make()
    state = state_of(simulation)
    with pytest.raises(error, match=message):
        simulation.apply(decision)
    assert_same(simulation, state)


@pytest.mark.parametrize(
    "envs", [[7], [-1], [True, False, True], [1.0], [0, 0], torch.tensor([0.0]), 0, "12", torch.tensor(1)], ids=str
)
def test_environments_that_do_not_exist_change_nothing(envs):
    simulation = make(3)
    state = state_of(simulation)
    for call in (
        lambda: simulation.apply(torch.ones_like(simulation.view.theta), envs=envs),
        lambda: simulation.reset([1], envs),
    ):
        with pytest.raises(ValueError, match="envs"):
            call()
    assert_same(simulation, state)


def test_environments_may_be_a_tensor():
    simulation, other = make(3), make(3)
    simulation.apply(uniform_update(simulation), envs=torch.tensor([0, 2]))
    other.apply(uniform_update(other), envs=[0, 2])
    assert_same(simulation, other)


@pytest.mark.parametrize(
    ("seeds", "envs"),
    [([5, seed], None) for seed in (2**70, -1, 2**63, 1.5, None)]
    + [([1], None), ([1, 2], [0]), (0, None), ("12", None), (None, None)],
)
def test_bad_seeds_change_nothing(seeds, envs):
    simulation = make()
    state = state_of(simulation)
    with pytest.raises(ValueError, match="seeds"):
        simulation.reset(seeds, envs)
    assert_same(simulation, state)


def test_rules_that_attacks_are_shown(rules_seen):
    simulation = make(3, attack="curious")
    assert type(rules_seen[-1]).__name__ == "Mean"
    first, second = aggregation.make("median", num_byzantine=0), aggregation.make("krum", num_byzantine=1)
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
def test_a_round_that_failed_must_be_mended(mend):
    def attack(gradients, byzantine, context):
        if broken:
            raise KeyError("bug")
        return -gradients

    broken = []
    attacks.register("flaky", lambda epsilon: attack)
    simulation, sound = make(attack="flaky:epsilon=0.5"), make(attack="flaky:epsilon=0.5")
    snapshot, update = simulation.snapshot(), uniform_update(simulation)
    broken.append(True)
    with pytest.raises(KeyError) as caught:
        simulation.apply(update)
    assert caught.value.__notes__ == ["raised by attack flaky:epsilon=0.5"]
    broken.clear()
    for go_on in (
        lambda: simulation.view,
        lambda: simulation.apply(update),
        lambda: simulation.reset([3], [0]),
    ):
        with pytest.raises(RuntimeError, match=r"failed half way, in an attack, .*; reset all"):
            go_on()
    if mend == "restore":
        simulation.restore(snapshot)
    else:
        simulation.reset([3, 4])
        sound.reset([3, 4])
    play(simulation, sound)
    assert_same(simulation, sound)


def test_a_reset_that_failed_must_be_repeated():
    def source(task, qv_size, generator):
        calls.append(None)
        if len(calls) == 5:  # after one for the shapes and two for the first episodes, the second of the next
            raise KeyError("bug")
        return task.train[0][:qv_size], task.train[1][:qv_size]

    calls = []
    tasks.quasi_validation.register("flaky", lambda: source)
    simulation = make(qv_source="flaky")
    with pytest.raises(KeyError) as caught:
        simulation.reset([7, 8])
    assert caught.value.__notes__ == ["raised by qv_source flaky"]
    with pytest.raises(RuntimeError, match=r"failed half way, in .* a QV source; reset all"):
        _ = simulation.view
    simulation.reset([7, 8])
    sound = make(qv_source="flaky")
    sound.reset([7, 8])
    assert_same(simulation, sound)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
def test_copies_play_on_apart(copied, remembering):
    simulation = make(**remembering)
    run(simulation, 3)
    other = copied(simulation)
    state, memory = state_of(simulation), simulation.memory.read("momentum", simulation.num_parameters)
    run(other, 4)
    assert_same(simulation, state)
    assert torch.equal(simulation.memory.read("momentum", simulation.num_parameters), memory)
    run(simulation, 4)
    assert_same(simulation, other)
    if copied is copy.deepcopy:
        assert other.setup.task is simulation.setup.task  # immutable, and large
