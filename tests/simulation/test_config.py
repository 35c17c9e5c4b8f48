"""Arguments of the simulation: checked, named, and built from names, texts, mappings and objects."""

import pytest
import torch
from simulation_cases import make

from byzgym import attacks, tasks
from byzgym.simulation import Simulation
from byzgym.simulation.config import SimulationConfig, resolve

MODULES = {
    "task": tasks,
    "attack": attacks,
    "roles": attacks.roles,
    "partition": tasks.partitions,
    "qv_source": tasks.quasi_validation,
}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"task": "synthetc"}, "unknown task 'synthetc'; did you mean 'synthetic'"),
        ({"attack": "nope"}, "unknown attack 'nope'; .*known: .*alie"),
        ({"attack": []}, "attack must name at least one"),
        ({"attack": {"epsilon": 1}}, "attack: .* needs the key 'name'"),
        ({"roles": "nope"}, "roles: unknown role function 'nope'; known: .*static"),
        ({"partition": "nope"}, "unknown partition 'nope'; known: .*iid"),
        ({"qv_source": "nope"}, "qv_source: unknown .*'nope'.*known: .*held_out"),
        ({"model": "nope"}, "unknown model 'nope'"),
        ({"model": 3}, "model must be a string .*got 3"),
        ({"num_workers": 0}, "num_workers must be an integer of at least 1, got 0"),
        ({"num_byzantine": 6}, "num_byzantine must be an integer from 0 to 5, got 6"),
        ({"num_byzantine": -1}, "num_byzantine must be an integer from 0 to 5, got -1"),
        ({"num_byzantine": 1.5}, "num_byzantine must be an integer"),
        ({"num_byzantine": (3, 2)}, r"num_byzantine\[1\] must be an integer from 3 to 5, got 2"),
        ({"num_byzantine": (0, 6)}, r"num_byzantine\[1\] must be an integer from 0 to 5, got 6"),
        ({"num_byzantine": (-1, 5)}, r"num_byzantine\[0\] must be an integer from 0 to 5, got -1"),
        ({"num_byzantine": (1, 2, 3)}, "num_byzantine must be an integer or"),
        ({"learning_rate": -0.1}, "learning_rate must be a finite number greater than 0"),
        ({"momentum": 1.0}, "momentum must be at least 0 and less than 1, got 1.0"),
        ({"worker_momentum": -0.1}, "worker_momentum must be"),
        ({"qv_size": 100_000}, "qv_size.*100000|qv_size.*100,000"),
        ({"qv_size": 0}, "qv_size must be an integer of at least 1"),
        ({"batch_size": 0}, "batch_size must be an integer of at least 1"),
        ({"secure_group_size": 4}, "secure_group_size must divide num_workers=6, got 4"),
        ({"rounds": 0}, "rounds must be an integer of at least 1"),
        ({"device": "abacus"}, "device must be a torch device"),
    ],
)
def test_bad_values_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        make(**arguments)


@pytest.mark.parametrize("argument", MODULES)
@pytest.mark.parametrize("value", [None, 3, {"ipm"}])
def test_values_of_another_kind_are_named(argument, value):
    with pytest.raises(TypeError, match=f"{argument}.* must be 'name', .*got {value}"):
        make(**{argument: value})


def test_unknown_arguments_and_parameters_are_named():
    with pytest.raises(TypeError, match="'num_wrokers'; did you mean 'num_workers'"):
        make(num_wrokers=3)
    for attack in ({"name": "ipm", "eps": 1}, "ipm:eps=1"):
        with pytest.raises(TypeError, match=r"attack 'ipm'.*'eps'; its parameters: epsilon"):
            make(attack=attack)


@pytest.mark.parametrize("argument", MODULES)
def test_a_factory_must_make_its_kind(argument):
    MODULES[argument].register("five", lambda: 5)
    with pytest.raises(TypeError, match="the factory of .*'five' must return a.*, got 5"):
        make(**{argument: "five"})


def test_another_default_dtype_is_named():
    torch.set_default_dtype(torch.float64)
    try:
        with pytest.raises(ValueError, match=r"default dtype must be torch.float32, got torch.float64"):
            make()
    finally:
        torch.set_default_dtype(torch.float32)


def test_f_is_seven_tenths_of_the_workers_by_default():
    for num_workers, number in ((1, 0), (2, 1), (5, 3), (10, 7), (13, 9)):
        config = SimulationConfig(task="synthetic", num_workers=num_workers)
        assert resolve(config).num_byzantine == (number, number)


def test_a_batch_above_a_workers_share_is_worth_a_warning():
    size = len(tasks.make("synthetic").train[1]) // 6
    make(batch_size=size)
    with pytest.warns(UserWarning, match=f"batch_size={size + 1} is more than the {size} samples"):
        make(batch_size=size + 1)


def test_a_name_a_text_and_a_mapping_say_the_same():
    same = [
        {"attack": "ipm:epsilon=2.0", "roles": "pretense:until=0", "partition": "dirichlet:alpha=0.3"},
        {
            "attack": [{"name": "ipm", "epsilon": 2.0}],
            "roles": {"name": "pretense", "until": 0},
            "partition": {"name": "dirichlet", "alpha": 0.3},
        },
    ]
    one, other = (make(**arguments) for arguments in same)
    assert torch.equal(one.gradients, other.gradients)
    assert one.attack_names == other.attack_names == ["ipm:epsilon=2.0"] * 2
    assert one.setup.roles_name == other.setup.roles_name == "pretense:until=0"


def test_objects_are_taken_as_they_are():
    attack, task = attacks.make("ipm", epsilon=2.0), tasks.make("synthetic")
    simulation = make(
        task=task,
        attack=attack,
        roles=attacks.roles.make("static"),
        partition=tasks.partitions.make("iid"),
        qv_source=tasks.quasi_validation.make("held_out"),
    )
    assert simulation.setup.attacks[0].attack is attack
    assert simulation.setup.task is task
    assert torch.equal(simulation.gradients, make(attack="ipm:epsilon=2.0").gradients)


@pytest.mark.parametrize("wanted", [frozenset({"QV"}), "qv", None, ["qv"]], ids=repr)
def test_knowledge_must_be_a_set_of_what_there_is(wanted):
    class Curious(attacks.Zero):
        knowledge = wanted

    attacks.register("test_curious", Curious)
    with pytest.raises(ValueError, match=r"attack: the knowledge of test_curious must be a set of"):
        make(attack="test_curious")


def test_a_scope_that_does_not_exist_is_named():
    class Misspelt(attacks.Zero):
        scope = "transmision"

    attacks.register("test_misspelt", Misspelt)
    with pytest.raises(ValueError, match=r"the scope of test_misspelt must be one of .*'transmision'"):
        make(attack="test_misspelt")


@pytest.mark.parametrize("given", [3, "ab", {"attack": "none"}, [{}], [1, 2]])
def test_overrides_must_be_one_mapping_each(given):
    with pytest.raises(ValueError, match="per_environment must be 2 mappings, got"):
        make(per_environment=given)


def test_overrides_name_attack_and_f_only():
    with pytest.raises(ValueError, match=r"may override attack and num_byzantine, got \['rounds'\]"):
        make(per_environment=[{"rounds": 3}, {}])
    simulation = make(
        num_envs=3,
        attack="zero",
        per_environment=[{"attack": "ipm"}, {}, {"attack": ["sign_flip"], "num_byzantine": 5}],
    )
    assert simulation.attack_names == ["ipm", "zero", "sign_flip"]
    assert simulation.byzantine.sum(1).tolist() == [2, 2, 5]


def test_overrides_that_say_the_same_share_an_attack():
    class Counted(attacks.Zero):
        def __init__(self, values=(1,)):
            built.append(values)

    built = []
    attacks.register("test_counted", Counted)
    specs = ["test_counted", *({"name": "test_counted", "values": [one]} for one in (1, 1.0))]
    overrides = [{"attack": spec, "num_byzantine": f} for f in (1, 2) for spec in specs]
    simulation = make(6, per_environment=overrides)
    assert simulation.workers.attack_of.tolist() == [1, 2, 3, 1, 2, 3] or len(simulation.workers.attacks) == 8
    assert simulation.byzantine.sum(1).tolist() == [1, 1, 1, 2, 2, 2]


class Constant:
    def __init__(self, values):
        self.value = float(values[1000])

    def __call__(self, gradients, byzantine, context):
        return torch.full_like(gradients, self.value)


def constants():
    """Specs that print alike, each of another constant."""
    for value in (1.0, 5.0, 7.0):
        yield value, {"name": "test_constant", "values": torch.zeros(2001).index_fill(0, torch.tensor(1000), value)}


def test_attacks_that_only_print_alike_stay_apart():
    attacks.register("test_constant", Constant)
    values, specs = zip(*constants(), strict=True)
    simulation = make(3, per_environment=[{"attack": spec} for spec in specs])
    for env, value in enumerate(values):
        assert (simulation.gradients[env, simulation.byzantine[env]] == value).all()
    del specs
    for value, spec in constants():  # a mapping that is gone leaves its address to the next
        simulation.reset([0, 1, 2], attack=spec)
        del spec
        assert (simulation.gradients[simulation.byzantine] == value).all()


def test_arguments_of_the_environment_have_no_effect():
    plain, told = make(), make(action="rule", rules=["krum"], observation="norms", evaluate_every=3)
    assert torch.equal(plain.gradients, told.gradients)
    with pytest.raises(ValueError, match="num_envs must be an integer of at least 1, got 0"):
        Simulation.make(0)
    for seed in (-1, "a", 0.5):
        with pytest.raises(ValueError, match=r"seed \(unless None\) must be an integer of at least 0"):
            make(seed=seed)
