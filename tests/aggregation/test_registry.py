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
        assert repr(aggregation.make_from(spec)) == repr(rule) == "Krum(num_byzantine=1)"
    made = aggregation.make_from(torch.nn.Flatten(0))
    assert isinstance(made, aggregation.CallableRule)
    assert repr(made) == "Flatten"


@pytest.mark.parametrize("make", [lambda: aggregation.make("krum"), lambda: aggregation.make_from("krum")])
def test_a_rule_without_f_deserves_a_warning(make):
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
    for spec, n in (("krum", 2), ("krum:num_byzantine=4", 10)):
        with pytest.raises(ValueError, match=rf"(?i)krum needs n >= 2f \+ 3, got n={n}"):
            aggregation.make_for(spec, n, 7)


class First(aggregation.Weighting):
    """A rule from outside that takes the mean of the first n - f rows."""

    def _credits(self, gradients):
        kept = torch.arange(gradients.shape[-2]) < gradients.shape[-2] - self.num_byzantine
        return (kept.double() / kept.sum()).expand(gradients.shape[:-1])  # the type need not fit


def asking(**parameters):
    return First(**parameters)


def test_factories_are_told_f_by_name():
    for factory, left in (
        (First, 3),
        (asking, 3),
        (lambda num_byzantine: First(num_byzantine), 3),
        (partial(First, num_byzantine=4), 1),  # it is told already
        (lambda row=0: lambda gradients: gradients[..., row, :], 1),  # it does not ask
    ):
        aggregation.register("mine", factory)
        expected = ROWS[:left].mean(0)
        torch.testing.assert_close(aggregation.make_for("mine", 5, 2)(ROWS), expected)
    assert torch.equal(aggregation.make("mine", row=2)(ROWS), ROWS[2])
    with pytest.raises(aggregation.NotLinearError, match="mine has no credits"):
        aggregation.make("mine").credits(ROWS)


def test_rules_do_not_import_from_above():
    code = (
        "import sys, types; package = types.ModuleType('byzgym'); package.__path__ = [sys.argv[1]];"
        "sys.modules['byzgym'] = package; import byzgym.aggregation;"
        "names = 'agents', 'attacks', 'envs', 'experiments', 'integrations', 'simulation', 'tasks';"
        "above = ('gymnasium', 'stable_baselines3', *('byzgym.' + name for name in names));"
        "print([name for name in sys.modules if name.startswith(above)])"
    )
    command = [sys.executable, "-c", code, next(iter(byzgym.__path__))]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == "[]"
