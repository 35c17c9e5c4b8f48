import pytest

from byzgym import aggregation, tasks
from byzgym.experiments import Comparison
from byzgym.experiments.config import options


def test_single_values_need_no_list():
    comparison = Comparison(policies="mean", attacks={"name": "ipm", "epsilon": 2.0}, num_byzantine=2)
    assert comparison.policies == ("mean",)
    assert comparison.attacks == ("ipm:epsilon=2.0",)
    assert comparison.num_byzantine == (2,)


@pytest.mark.parametrize(("num_workers", "default"), [(10, 7), (5, 3), (1, 0)])
def test_default_number_of_byzantine_workers(num_workers, default):
    assert Comparison(num_workers=num_workers).num_byzantine == (default,)


def test_names_have_one_spelling():
    comparison = Comparison(attacks=["gaussian: mean=-1, std=1e3"], task={"name": "synthetic", "seed": 1})
    assert comparison.attacks == ("gaussian:mean=-1,std=1000.0",)
    assert comparison.task == "synthetic:seed=1"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": 0}, "seeds must be an integer of at least 1, got 0"),
        ({"first_seed": -1}, "first_seed must be an integer from 0 to .*, got -1"),
        ({"num_byzantine": 10}, "num_byzantine must be an integer from 0 to 9, got 10"),
        ({"policies": ()}, "policies must not be empty"),
        ({"policies": ("mean", "mean")}, "policies must not repeat mean"),
        ({"attacks": ("ipm: epsilon=1", "ipm:epsilon=1")}, "attacks must not repeat ipm:epsilon=1"),
        ({"attacks": "ipm:epsilon="}, "name:key=value"),
        ({"evaluate_every": 0}, "evaluate_every"),
    ],
)
def test_values_that_are_not_allowed(changes, message):
    with pytest.raises(ValueError, match=message):
        Comparison(**changes)


@pytest.mark.parametrize(
    ("name", "value", "kind"),
    [
        ("policies", aggregation.Mean(), "Mean"),
        ("task", tasks.make("synthetic"), "Task"),
        ("attacks", 3, "int"),
    ],
)
def test_objects_are_refused_in_one_line(name, value, kind):
    with pytest.raises(TypeError, match=f"{name}: a comparison takes names, got {kind}"):
        Comparison(**{name: value})


def test_options_give_what_is_not_default():
    assert options(Comparison(), Comparison) == []
    assert options(Comparison(num_workers=5), Comparison) == ["--num-workers", "5"]
    changed = Comparison(task="synthetic", num_byzantine=(0, 3), momentum=0.5)
    words = options(changed, Comparison)
    assert words == ["--task", "synthetic", "--momentum", "0.5", "--num-byzantine", "0", "3"]
