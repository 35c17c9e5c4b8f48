"""Attacks, role functions and sources of somebody else: what goes wrong in them is named, spoils nothing."""

import pytest
import torch
from simulation_cases import make, uniform_update

from byzgym import attacks, tasks


def test_a_round_that_an_attack_broke_off_cannot_be_gone_on_with():
    broken = []

    def attack(gradients, byzantine, context):
        if broken:
            raise KeyError("bug")
        return -gradients

    attacks.register("flaky", lambda: attack)
    simulation, sound = make(attack="flaky"), make(attack="flaky")
    broken.append(True)
    with pytest.raises(KeyError) as caught:
        simulation.apply(uniform_update(simulation))
    assert caught.value.__notes__[0].startswith("raised by attack <function")
    broken.clear()
    update = torch.zeros(2, simulation.num_parameters)
    for go_on in (lambda: simulation.view, lambda: simulation.apply(update)):
        with pytest.raises(RuntimeError, match=r"failed half way, in an attack, .*; reset all"):
            go_on()
    for one in (simulation, sound):
        one.reset([3, 4])
        one.apply(uniform_update(one))
    assert torch.equal(simulation.gradients, sound.gradients)


def test_a_snapshot_from_before_repairs_a_broken_round():
    broken = []

    def attack(gradients, byzantine, context):
        assert not broken
        return -gradients

    attacks.register("flaky", lambda: attack)
    simulation = make(attack="flaky")
    snapshot, gradients = simulation.snapshot(), simulation.gradients.clone()
    broken.append(True)
    with pytest.raises(AssertionError):
        simulation.apply(uniform_update(simulation))
    simulation.restore(snapshot)
    assert torch.equal(simulation.gradients, gradients)


@pytest.mark.parametrize(
    "result", [None, torch.ones(2, 6), torch.ones(2, 5, dtype=torch.bool), [True] * 6], ids=repr
)
def test_a_role_function_must_return_a_mask(result):
    attacks.roles.register("odd", lambda: lambda assigned, current, context: result)
    with pytest.raises(ValueError, match=r"role function .* must return a bool tensor of shape \(2, 6\)"):
        make(roles="odd")


@pytest.mark.parametrize("argument", ["attack", "roles", "partition", "qv_source"])
def test_a_factory_must_return_something_to_call(argument):
    modules = {
        "attack": attacks,
        "roles": attacks.roles,
        "partition": tasks.partitions,
        "qv_source": tasks.quasi_validation,
    }
    modules[argument].register("five", lambda: 5)
    with pytest.raises(TypeError, match=f"{argument}: the factory of 'five' must return something to call"):
        make(**{argument: "five"})


def test_a_task_must_be_a_task():
    tasks.register("a_dict", dict)
    with pytest.raises(TypeError, match=r"task: the factory of 'a_dict' must return a Task, got \{\}"):
        make(task="a_dict")


@pytest.mark.parametrize(
    ("number", "value"), [(3, 0.0), (10, float("nan"))], ids=["too few samples", "not finite"]
)
def test_quasi_validation_samples_are_checked(number, value):
    def source(task, qv_size, generator):
        return torch.full((number, *task.input_shape), value), torch.zeros(number, dtype=torch.int64)

    tasks.quasi_validation.register("odd", lambda: source)
    with pytest.raises(ValueError, match=r"qv_source .* must return 10 finite samples of shape \(8,\)"):
        make(qv_source="odd")


@pytest.mark.parametrize(
    "samples",
    [
        None,
        torch.zeros(10, 8),
        (torch.zeros(10, 8), None),
        (torch.zeros(10, 8).numpy(), torch.zeros(10, dtype=torch.int64)),
        (torch.zeros(10, 8), torch.zeros(10)),
        (torch.zeros(10, 8), torch.full((10,), -1)),
        (torch.zeros(10, 8), torch.full((10,), 3)),
    ],
    ids=["none", "no labels", "None for labels", "numpy", "float labels", "label -1", "label 3"],
)
def test_what_a_quasi_validation_source_returns_is_checked(samples):
    tasks.quasi_validation.register("odd", lambda: lambda task, qv_size, generator: samples)
    with pytest.raises(ValueError, match=r"qv_source .* their labels, int64 of shape \(10,\) from 0 to 2"):
        make(qv_source="odd")


def test_quasi_validation_samples_in_double_precision():
    def source(task, qv_size, generator):
        return task.train[0][:qv_size].double(), task.train[1][:qv_size]

    tasks.quasi_validation.register("double", lambda: source)
    assert make(qv_source="double").qv_loss().dtype == torch.float32


def test_a_reset_that_failed_half_way_cannot_be_gone_on_with():
    calls = []

    def source(task, qv_size, generator):
        calls.append(None)
        if len(calls) == 5:  # after one for the shapes and two for the first episodes, the second of the next
            raise KeyError("bug")
        return task.train[0][:qv_size], task.train[1][:qv_size]

    tasks.quasi_validation.register("flaky", lambda: source)
    simulation = make(qv_source="flaky")
    update = uniform_update(simulation)
    with pytest.raises(KeyError):
        simulation.reset([7, 8])
    for go_on in (lambda: simulation.view, lambda: simulation.apply(update)):
        with pytest.raises(RuntimeError, match=r"failed half way, in .* a QV source; reset all"):
            go_on()
    simulation.reset([7], [0])
    with pytest.raises(RuntimeError, match="failed half way"):
        simulation.apply(update)
    simulation.reset([7, 8])
    sound = make(qv_source="flaky")
    sound.reset([7, 8])
    assert torch.equal(simulation.gradients, sound.gradients)


@pytest.mark.parametrize("given", [0, None, "12", torch.tensor(1)])
def test_seeds_and_environments_must_be_lists(given):
    simulation = make()
    with pytest.raises(ValueError, match="seeds must be one for each of the environments"):
        simulation.reset(given)
    if given is not None:
        with pytest.raises(ValueError, match="envs must be a list of numbers of environments"):
            simulation.apply(uniform_update(simulation), envs=given)


def test_updates_and_credits_are_real_numbers():
    simulation = make()
    update = uniform_update(simulation)
    with pytest.raises(ValueError, match=r"update must be real, got torch.complex64"):
        simulation.apply(update.to(torch.complex64))
    with pytest.raises(ValueError, match=r"credits must be real, got torch.complex128"):
        simulation.apply(update, torch.zeros(2, 6, dtype=torch.complex128))
    assert simulation.view.round.tolist() == [0, 0]


def test_a_reset_needs_a_seed_for_each_environment():
    for seeds, envs in (([1], None), ([1, 2], [0])):
        with pytest.raises(ValueError, match="seeds must be one for each of the environments"):
            make().reset(seeds, envs)


@pytest.mark.parametrize("envs", [[7], [-1], [True, False, True], [1.0], [0, 0], torch.tensor([0.0])])
def test_environments_that_do_not_exist_change_nothing(envs):
    simulation, other = make(3), make(3)
    update = torch.ones_like(simulation.view.theta)
    for call in (
        lambda: simulation.apply(update, envs=envs),
        lambda: simulation.reset(range(len(envs)), envs),
    ):
        with pytest.raises(ValueError, match="envs"):
            call()
    assert torch.equal(simulation.gradients, other.gradients)
    assert torch.equal(simulation.view.theta, other.view.theta)
    for one in (simulation, other):
        one.apply(update, envs=torch.tensor([0, 2]) if one is simulation else [0, 2])
    assert torch.equal(simulation.gradients, other.gradients)


@pytest.mark.parametrize(
    "bad",
    [
        lambda x, y: None,
        lambda x, y: (x, y.float()),
        lambda x, y: (x, y + 100),
        lambda x, y: (x[..., :1], y),
    ],
    ids=["nothing", "float_labels", "unknown_labels", "shape"],
)
def test_a_data_poisoning_must_return_batches(bad):
    class Bad(attacks.DataPoisoning):
        def poison(self, x, y, byzantine, context):
            return bad(x, y)

    attacks.register("test_bad_poison", Bad)
    with pytest.raises(ValueError, match=r"attack .*Bad.* must return inputs of shape \(2, 6, 4, .* poison"):
        make(attack="test_bad_poison")


def test_what_a_data_poisoning_returns_for_honest_workers_does_not_count():
    class Careless(attacks.DataPoisoning):
        def poison(self, x, y, byzantine, context):
            return x, torch.where(byzantine[..., None], context.num_classes - 1 - y, -100)

    attacks.register("test_careless", Careless)
    assert torch.equal(make(attack="test_careless").gradients, make(attack="label_flip").gradients)


@pytest.mark.parametrize(
    "result",
    [
        None,
        torch.zeros(6, 3, dtype=torch.int64),
        (torch.full((6, 3), 10**6), torch.full((6,), 3)),
        (torch.zeros(6, 3, dtype=torch.int64), torch.zeros(6, dtype=torch.int64)),
        (torch.zeros(6, 3), torch.full((6,), 3)),
        (torch.zeros(5, 3, dtype=torch.int64), torch.full((6,), 3)),
    ],
    ids=["nothing", "one_tensor", "numbers", "empty_share", "type", "shape"],
)
def test_a_partition_must_divide_the_data(result):
    tasks.partitions.register("odd", lambda: lambda labels, num_workers, generator: result)
    with pytest.raises(
        ValueError, match=r"partition .* must return the numbers of samples, int64 of shape \(6"
    ):
        make(partition="odd")


@pytest.mark.parametrize("wanted", [frozenset({"QV"}), "qv", None, ["qv"]], ids=repr)
def test_knowledge_must_be_a_set_of_what_there_is(wanted):
    class Curious(attacks.Zero):
        knowledge = wanted

    attacks.register("test_curious", Curious)
    with pytest.raises(ValueError, match=r"attack: the knowledge of 'test_curious' must be a set of"):
        make(attack="test_curious")


def test_a_scope_that_does_not_exist_is_refused():
    class Misspelt(attacks.Zero):
        scope = "transmision"

    attacks.register("test_misspelt", Misspelt)
    with pytest.raises(ValueError, match=r"attack: the scope of 'test_misspelt' must be one of .*'transmisi"):
        make(attack="test_misspelt")


@pytest.mark.parametrize("argument", ["partition", "qv_source"])
def test_errors_in_partitions_and_qv_sources_name_them(argument):
    def failing(*given):
        raise KeyError("bug")

    module = tasks.partitions if argument == "partition" else tasks.quasi_validation
    module.register("test_failing", lambda: failing)
    with pytest.raises(KeyError) as caught:
        make(**{argument: "test_failing"})
    assert caught.value.__notes__[0].startswith(f"raised by {argument} <function")


@pytest.mark.parametrize("seed", [2**70, -1, 2**63, 1.5, None])
def test_seeds_that_do_not_exist_change_nothing(seed):
    simulation, other = make(), make()
    with pytest.raises(ValueError, match="seeds"):
        simulation.reset([5, seed])
    assert torch.equal(simulation.view.theta, other.view.theta)
    assert torch.equal(simulation.byzantine, other.byzantine)


def test_errors_of_a_data_poisoning_say_whose_they_are():
    class Failing(attacks.DataPoisoning):
        def poison(self, x, y, byzantine, context):
            raise KeyError("bug")

    attacks.register("test_failing_poison", Failing)
    with pytest.raises(KeyError) as caught:
        make(attack="test_failing_poison")
    assert "Failing" in caught.value.__notes__[0]


def test_a_role_function_cannot_change_the_server_or_see_its_data():
    seen = []

    def meddling(assigned, current, context):
        seen.append((context.rule, context.qv))
        for tensor in (context.round, context.previous_update, context.learning_rate):
            tensor.fill_(77)
        return assigned

    attacks.roles.register("test_meddling", lambda: meddling)
    for envs in (1, 3):
        simulation, twin = make(envs, roles="test_meddling"), make(envs)
        for _ in range(3):
            for each in (simulation, twin):
                each.apply(uniform_update(each))
            assert torch.equal(simulation.view.round, twin.view.round)
            assert torch.equal(simulation.view.previous_update, twin.view.previous_update)
            assert torch.equal(simulation.gradients, twin.gradients)
    assert set(seen) == {(None, None)}
