"""Rules by name: told f or not, with f lowered, and from outside."""

import subprocess
import sys
from functools import partial

import pytest
import torch

import byzgym
from byzgym import aggregation

ROWS = torch.eye(5)


def test_every_form_of_a_spec_is_a_rule():
    rule = aggregation.make("krum", num_byzantine=1)
    assert aggregation.make_from(rule) is rule
    for spec in ("krum:num_byzantine=1", {"name": "krum", "num_byzantine": 1}):
        made = aggregation.make_from(spec)
        assert repr(made) == repr(rule) == "Krum(num_byzantine=1)"
    made = aggregation.make_from(torch.nn.Flatten(0))
    assert isinstance(made, aggregation.CallableRule)
    assert repr(made) == "Flatten"


def test_mistakes_are_named():
    for spec, error, message in (
        ("krumm", ValueError, "unknown rule 'krumm'; did you mean 'krum'"),
        ("krum:f=1", TypeError, "rule 'krum': .*'f'; its parameters: num_byzantine"),
        (3, TypeError, "rule must be 'name', .* got 3"),
        (aggregation.Krum, TypeError, "rule must be 'name', .* got <class"),
    ):
        with pytest.raises(error, match=message):
            aggregation.make_from(spec)


def test_a_rule_without_f_deserves_a_word():
    for make in (partial(aggregation.make, "krum"), partial(aggregation.make_from, {"name": "krum"})):
        with pytest.warns(UserWarning, match="rule krum is not told num_byzantine and assumes 0") as caught:
            make()
        assert caught[0].filename == __file__  # the caller's line


def test_f_is_lowered_to_what_the_rule_accepts():
    for spec, f, told in (
        ("krum", 7, 3),
        ("krum", 2, 2),
        ("bulyan", 7, 1),
        ("mean", 7, 7),
        ("krum:num_byzantine=1", 7, 1),
        ({"name": "multi_krum", "num_selected": 2}, 7, 3),
        (aggregation.make("krum", num_byzantine=0), 7, 0),
    ):
        assert aggregation.make_for(spec, 10, f).num_byzantine == told
    with pytest.raises(ValueError, match=r"rule krum needs n >= 2f \+ 3, got n=2"):
        aggregation.make_for("krum", 2, 1)
    with pytest.raises(ValueError, match=r"Krum needs n >= 2f \+ 3, got n=10 and num_byzantine=4"):
        aggregation.make_for("krum:num_byzantine=4", 10, 7)


class Trimmed(aggregation.Weighting):
    """A rule from outside that keeps the first n - f rows."""

    def _credits(self, gradients):
        kept = gradients.shape[-2] - self.num_byzantine
        credits = gradients.new_zeros(gradients.shape[:-1])
        credits[..., :kept] = 1 / kept
        return credits


def asking(**parameters):
    return Trimmed(**parameters)


@pytest.mark.parametrize("factory", [Trimmed, asking, lambda num_byzantine: Trimmed(num_byzantine)])
def test_factories_are_told_f_by_name(factory):
    aggregation.register("mine", factory)
    assert aggregation.make_for("mine", 5, 2).credits(ROWS).tolist() == pytest.approx([1 / 3] * 3 + [0, 0])
    assert aggregation.make("mine", num_byzantine=3).credits(ROWS).tolist() == [0.5, 0.5, 0, 0, 0]


def test_a_partial_that_binds_f_is_not_told():
    aggregation.register("mine", partial(Trimmed, num_byzantine=4))
    assert aggregation.make_for("mine", 5, 2).credits(ROWS).tolist() == [1, 0, 0, 0, 0]


def test_a_registered_callable_is_a_rule():
    aggregation.register("first", lambda row=0: lambda gradients: gradients[..., row, :])
    for rule, row in ((aggregation.make("first"), 0), (aggregation.make_for("first:row=1", 5, 2), 1)):
        assert torch.equal(rule(ROWS), ROWS[row])
        with pytest.raises(aggregation.NotLinearError, match="first"):
            rule.credits(ROWS)


def test_rules_do_not_import_from_above():
    code = (
        "import sys, types; package = types.ModuleType('byzgym'); package.__path__ = [sys.argv[1]];"
        "sys.modules['byzgym'] = package; import byzgym.aggregation;"
        "above = ('gymnasium', 'stable_baselines3', 'byzgym.agents', 'byzgym.attacks', 'byzgym.cli', 'byzgym.envs',"
        "'byzgym.experiments', 'byzgym.integrations', 'byzgym.simulation', 'byzgym.tasks');"
        "print([name for name in sys.modules if name.startswith(above)])"
    )
    command = [sys.executable, "-c", code, next(iter(byzgym.__path__))]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == "[]"
