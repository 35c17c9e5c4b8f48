"""Arguments of the simulation: checked, named, and built from names, texts, mappings and objects."""

import pytest
import torch
from simulation_cases import assert_same, make

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
COUNTS = ("num_workers", "batch_size", "qv_size", "secure_group_size", "rounds")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"task": "synthetc"}, "unknown task 'synthetc'; did you mean 'synthetic'"),
        ({"attack": "nope"}, "unknown attack 'nope'; .*known: .*alie"),
        ({"attack": {"epsilon": 1}}, "attack: .* needs the key 'name'"),
        ({"roles": "nope"}, "roles: unknown role function 'nope'; known: .*static"),
        ({"partition": "nope"}, "unknown partition 'nope'; known: .*iid"),
        ({"qv_source": "nope"}, "qv_source: unknown .*'nope'.*known: .*held_out"),
        ({"model": "nope"}, "unknown model 'nope'"),
        ({"model": 3}, "model must be a string .*got 3"),
        *(({name: 0}, rf"{name} must be an integer .*1.*, got 0") for name in COUNTS),
        ({"num_byzantine": 6}, "num_byzantine must be an integer from 0 to 5, got 6"),
        ({"num_byzantine": 1.5}, "num_byzantine must be an integer"),
        ({"num_byzantine": (3, 2)}, r"num_byzantine\[1\] must be an integer from 3 to 5, got 2"),
        ({"num_byzantine": (0, 6)}, r"num_byzantine\[1\] must be an integer from 0 to 5, got 6"),
        ({"num_byzantine": (-1, 5)}, r"num_byzantine\[0\] must be an integer from 0 to 5, got -1"),
        ({"num_byzantine": (1, 2, 3)}, "num_byzantine must be an integer or"),
        ({"learning_rate": -0.1}, "learning_rate must be a finite number greater than 0"),
        ({"momentum": 1.0}, "momentum must be at least 0 and less than 1, got 1.0"),
        ({"worker_momentum": -0.1}, "worker_momentum must be"),
        ({"weight_decay": -0.1}, "weight_decay must be a finite number of at least 0, got -0.1"),
        ({"qv_size": 100_000}, "qv_size.*100000|qv_size.*100,000"),
        ({"qv_period": 0}, "qv_period must be an integer of at least 1, got 0"),
        ({"secure_group_size": 4}, "secure_group_size must divide num_workers=6, got 4"),
        ({"device": "abacus"}, "device must be a torch device"),
        ({"num_envs": 0}, "num_envs must be an integer of at least 1, got 0"),
        *(
            ({"seed": seed}, r"seed \(unless None\) must be an integer of at least 0")
            for seed in (-1, "a", 0.5)
        ),
        *(
            ({"per_environment": given}, "per_environment must be 2 mappings, got")
            for given in (3, "ab", {"attack": "none"}, [{}], [1, 2])
        ),
        ({"per_environment": [{"rounds": 3}, {}]}, r"override attack and num_byzantine, got \['rounds'\]"),
    ],
)
def test_bad_values_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        make(**arguments)


@pytest.mark.parametrize("argument", MODULES)
def test_values_of_another_kind_are_named(argument):
    MODULES[argument].register("five", lambda: 5)
    for value, got in ((None, None), (3, 3), ({"ipm"}, {"ipm"}), ("five", 5)):
        with pytest.raises(TypeError, match=f"{argument}.* must .*got {got}"):
            make(**{argument: value})


def test_unknown_arguments_are_named():
    with pytest.raises(TypeError, match="'num_wrokers'; did you mean 'num_workers'"):
        make(num_wrokers=3)
    for attack in ({"name": "ipm", "eps": 1}, "ipm:eps=1"):
        with pytest.raises(TypeError, match=r"attack 'ipm'.*'eps'; its parameters: epsilon"):
            make(attack=attack)


def test_another_default_dtype_is_named():
    torch.set_default_dtype(torch.float64)
    try:
        with pytest.raises(ValueError, match=r"default dtype must be torch.float32, got torch.float64"):
            make()
    finally:
        torch.set_default_dtype(torch.float32)


def test_f_is_seven_tenths_by_default():
    for num_workers, number in ((1, 0), (2, 1), (5, 3), (10, 7), (13, 9)):
        config = SimulationConfig(task="synthetic", num_workers=num_workers)
        assert resolve(config).num_byzantine == (number, number)


def test_a_batch_above_a_share_deserves_a_warning():
    size = len(tasks.make("synthetic").train[1]) // 6
    make(batch_size=size)
    with pytest.warns(UserWarning, match=f"batch_size={size + 1} is more than the {size} samples"):
        make(batch_size=size + 1)


def test_a_text_and_objects_say_the_same():
    text = make(attack="ipm:epsilon=2.0", roles="pretense:until=0", partition="dirichlet:alpha=0.3")
    assert text.attack_names == ["ipm:epsilon=2.0"] * 2
    objects = make(
        task=tasks.make("synthetic"),
        attack=[attacks.make("ipm", epsilon=2.0)],
        roles=attacks.roles.make("pretense", until=0),
        partition=tasks.partitions.make("dirichlet", alpha=0.3),
        qv_source=tasks.quasi_validation.make("held_out"),
    )
    assert torch.equal(objects.gradients, text.gradients)


@pytest.mark.parametrize("knowledge", [frozenset({"QV"}), "qv", None, ["qv"]], ids=repr)
def test_knowledge_and_scope_must_exist(knowledge):
    for members, message in (
        ({"knowledge": knowledge}, "attack: the knowledge of mine must be a set of"),
        ({"scope": "transmision"}, r"the scope of mine must be one of .*'transmision'"),
    ):
        attacks.register("mine", type("Mine", (attacks.Zero,), members))
        with pytest.raises(ValueError, match=message):
            make(attack="mine")


def test_overrides_of_single_environments():
    own = [{"attack": "ipm"}, {}, {"attack": ["sign_flip"], "num_byzantine": 5}, {"attack": {"name": "ipm"}}]
    simulation = make(4, attack="zero", per_environment=own)
    assert simulation.attack_names == ["ipm", "zero", "sign_flip", "ipm"]
    assert simulation.byzantine.sum(1).tolist() == [2, 2, 5, 2]
    assert len(simulation.workers.attacks) == 3  # those that say the same act on both at once


def test_attacks_that_only_print_alike_stay_apart():
    def constant(value):
        return {"name": "test_constant", "values": torch.zeros(2001).index_fill(0, torch.tensor(1000), value)}

    attacks.register("test_constant", lambda values: lambda gradients, *_: values[1000].expand_as(gradients))
    simulation = make(2, per_environment=[{"attack": constant(1.0)}, {"attack": constant(5.0)}])
    for env, value in enumerate((1.0, 5.0)):
        assert (simulation.gradients[env, simulation.byzantine[env]] == value).all()
    for value in (1.0, 5.0, 7.0):  # a mapping that is gone leaves its address to the next
        simulation.reset([0, 1], attack=constant(value))
        assert (simulation.gradients[simulation.byzantine] == value).all()


def test_environment_arguments_have_no_effect():
    told = Simulation.make(2, 0, task="synthetic", action="rule", rules=["krum"], observation="norms")
    assert_same(told, Simulation.make(2, 0, task="synthetic"))
