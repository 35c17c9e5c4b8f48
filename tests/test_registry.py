from functools import partial

import pytest
import torch

from byzgym import registry
from byzgym.registry import Registry, describe, is_callable


def scale(factor=2.0, offset=0):
    return lambda rows: factor * rows + offset


@pytest.fixture
def rules():
    made = Registry("rule", is_callable, "a callable")
    made.built_in("scale")(scale)
    made.register("mean", lambda: lambda rows: rows.mean(-2))
    return made


@pytest.mark.parametrize(
    "spec",
    ["scale:factor=3", {"name": "scale", "factor": 3}, lambda rows: 3 * rows, torch.nn.Threshold(0, 6.0)],
)
def test_every_form_of_a_spec(rules, spec):
    made = rules.make_from(spec)
    assert made(torch.tensor(2.0) if is_callable(spec) else 2) in (6, 2)
    assert made is spec or not callable(spec)


@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        ("scal", ValueError, r"unknown rule 'scal'; did you mean 'scale'\? known: mean, scale$"),
        ("quite_other", ValueError, "unknown rule 'quite_other'; known: mean, scale$"),
        ({"name": 3}, ValueError, "unknown rule 3; known"),
        ({"factor": 3}, ValueError, "rule: a mapping needs the key 'name', got {'factor': 3}"),
        (
            "scale:factor",
            ValueError,
            "expected 'scale:key=value', got a value without a key; .*: factor, offset",
        ),
        ("scale:f=3", TypeError, "rule 'scale': .*'f'; its parameters: factor=2.0, offset=0"),
        ("mean:f=3", TypeError, "its parameters: none"),
        (["scale"], TypeError, r"rule must be 'name', .* a mapping .* or a callable, got \['scale'\]$"),
        (torch.nn.ReLU, TypeError, "or a callable, got <class 'torch.nn.modules.activation.ReLU'>"),
        (torch.zeros(99, 99), TypeError, "or a callable, got tensor.{,120}$"),
    ],
)
def test_bad_specs(rules, spec, error, message):
    with pytest.raises(error, match=message):
        rules.make_from(spec)


def test_a_factory_returns_the_kind(rules):
    rules.register("nothing", lambda: None)
    with pytest.raises(TypeError, match="the factory of rule 'nothing' must return a callable, got None"):
        rules.make("nothing")


def test_without_a_kind_no_object_is_taken():
    plain = Registry("model")
    plain.register("any", lambda: None)
    assert plain.make("any") is None
    with pytest.raises(TypeError, match=r"model must be 'name', .*, a mapping with a 'name', got <built-in"):
        plain.make_from(len)


@pytest.mark.parametrize("name", ["", "a:b", "a,b", "a=b", "a b", 3])
def test_bad_names(rules, name):
    with pytest.raises(ValueError, match="rule: a name must be a non-empty string without"):
        rules.register(name, scale)


def test_registering(rules):
    with pytest.raises(TypeError, match="the factory of rule 'x' must be callable, got 3"):
        rules.register("x", 3)
    with pytest.raises(ValueError, match="rule 'scale' is built in"):
        rules.register("scale", scale)
    rules.register("mean", scale)
    assert rules.make("mean")(1) == 2
    assert [rules.is_built_in(name) for name in ("scale", "mean", "other")] == [True, False, False]


def test_registries_that_are_kept_apart_share_no_name(rules):
    fronts = Registry("front", is_callable, "a callable")
    fronts.register("half", scale)
    rules.keep_apart(fronts)
    with pytest.raises(ValueError, match=r"rule 'half' must not have the name of a registered front: .*'\+'"):
        rules.register("half", scale)
    for name in ("scale", "mean"):
        with pytest.raises(ValueError, match=f"front '{name}' must not have the name of a registered rule"):
            fronts.register(name, scale)
    assert (rules.names(), fronts.names()) == (["mean", "scale"], ["half"])
    rules.register("mean", scale)  # one's own name can still be registered again
    fronts.register("half", scale)


def test_injection_by_name(rules):
    rules.register("f", lambda num_byzantine, m=1: lambda rows: (num_byzantine, m))
    rules.register("any", lambda **parameters: lambda rows: parameters)
    rules.register("bound", partial(scale, factor=5))
    rules.register("positional", lambda num_byzantine, /: None)
    given = {"num_byzantine": 3, "factor": 7, "simulation": None}
    assert rules.make_from("f", given)(0) == (3, 1)
    assert rules.make_from("f:num_byzantine=1,m=2", given)(0) == (1, 2)
    assert rules.make_from({"name": "any", "k": 1}, given)(0) == {"num_byzantine": 3, "k": 1}
    assert rules.make_from("scale", given)(1) == 7
    assert rules.make_from("bound", given)(1) == 5
    assert rules.make_from("mean", given)(torch.ones(2, 2)).tolist() == [1, 1]
    assert not rules.takes("positional", "num_byzantine")
    with pytest.raises(ValueError, match="unknown rule"):
        rules.make_from("other", given)


def test_descriptions_hold_no_address():
    class Rule:
        def __call__(self, rows): ...

    specs = ["ipm:epsilon=1", {"name": "ipm", "epsilon": 1}, {"name": "ipm"}, scale, Rule(), partial(scale)]
    assert [describe(spec) for spec in specs] == ["ipm:epsilon=1"] * 2 + ["ipm", "scale", "Rule", "partial"]
    assert registry.describe(lambda: 0) == "<lambda>"


def test_a_value_without_a_key_is_for_the_parameter_that_is_needed():
    registry = Registry("task")
    registry.register("read", lambda path, limit=None: (path, limit))
    registry.register("join", lambda left, right: (left, right))
    assert registry.make_from("read:a,b.csv") == ("a,b.csv", None)
    assert registry.make_from({"name": "read", "path": "x", "limit": 3}) == ("x", 3)
    with pytest.raises(ValueError, match=r"expected 'join:key=value'.*: left, right"):
        registry.make_from("join:1")
