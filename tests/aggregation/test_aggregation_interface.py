"""Names, conditions, errors and types."""

import re
import subprocess
import sys

import numpy as np
import pytest
import torch

from byzgym import aggregation
from byzgym.aggregation.registry import registry

CONDITIONS = {
    "mean": "n >= f + 1",
    "norm_clipping": "n >= f + 1",
    "krum": "n >= 2f + 3",
    "multi_krum": "n >= 2f + 3",
    "medoid": "n >= 2f + 1",
    "geometric_median": "n >= 2f + 1",
    "median": "n >= 2f + 1",
    "trimmed_mean": "n >= 2f + 1",
    "mean_around_median": "n >= 2f + 1",
    "faba": "n >= 2f + 1",
    "brute_force": "n >= 2f + 1",
    "bulyan": "n >= 4f + 3",
}
every_rule = pytest.mark.parametrize("name", CONDITIONS)


@pytest.fixture
def registered():
    """Register for one test only."""
    before = dict(registry._factories)
    yield aggregation.register
    registry._factories.clear()
    registry._factories.update(before)


def test_all_are_built_in():
    assert set(CONDITIONS) <= set(aggregation.names())


@pytest.mark.parametrize(("name", "condition"), CONDITIONS.items())
def test_conditions(name, condition):
    for n in range(1, 25):
        rule_class = type(aggregation.make(name))
        demand = re.sub(r"(\d)f", r"\1 * f", condition)
        allowed = [f for f in range(n) if eval(demand, {"n": n, "f": f})]
        assert rule_class.max_byzantine(n) == max(allowed, default=-1)
        rows = torch.ones(n, 2)
        if allowed:
            aggregation.make(name, num_byzantine=max(allowed))(rows)
        with pytest.raises(ValueError, match=condition.replace("+", r"\+")):
            aggregation.make(name, num_byzantine=max(allowed, default=-1) + 1)(rows)


@pytest.mark.parametrize("name", [n for n in CONDITIONS if aggregation.make(n).linear])
def test_credits_check_the_condition_too(name):
    with pytest.raises(ValueError, match="num_byzantine=7"):
        aggregation.make(name, num_byzantine=7).credits(torch.ones(7, 2))


@every_rule
@pytest.mark.parametrize("value", [-1, 1.5, True, "2"])
def test_num_byzantine_is_checked(name, value):
    with pytest.raises(ValueError, match="num_byzantine"):
        aggregation.make(name, num_byzantine=value)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("multi_krum", {"num_selected": 0}),
        ("geometric_median", {"tolerance": 0}),
        ("geometric_median", {"max_iterations": 0}),
        ("norm_clipping", {"max_norm": 0.0}),
        ("norm_clipping", {"max_norm": float("inf")}),
        ("median", {"compiled": 1}),
    ],
)
def test_parameters_are_checked(name, parameters):
    with pytest.raises(ValueError, match=next(iter(parameters))):
        aggregation.make(name, **parameters)


def test_multi_krum_cannot_select_more_than_there_are():
    with pytest.raises(ValueError, match="num_selected must be an integer from 1 to 5"):
        aggregation.make("multi_krum", num_selected=6)(torch.ones(5, 2))


@every_rule
def test_shape_and_type_are_checked(name):
    rule = aggregation.make(name)
    for wrong in (torch.ones(5), torch.ones(5, 0), torch.ones(0, 3), torch.ones(5, 3, dtype=torch.int64)):
        with pytest.raises(ValueError, match=r"\[\.\.\., n, d\]"):
            rule(wrong)


@every_rule
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_result_type_and_shape(name, dtype):
    rule = aggregation.make(name)
    for shape in ((5, 3), (2, 5, 3), (2, 4, 5, 3), (5, 1)):
        rows = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=dtype)
        result = rule(rows)
        assert result.dtype == dtype
        assert result.shape == shape[:-2] + shape[-1:]
        if rule.linear:
            assert rule.credits(rows).dtype == dtype


@every_rule
def test_layouts_and_modes(name):
    rows = torch.randn(2, 7, 30, generator=torch.Generator().manual_seed(0))
    rule = aggregation.make(name, num_byzantine=1)
    expected = rule(rows)
    torch.testing.assert_close(rule(rows.mT.contiguous().mT), expected)
    torch.testing.assert_close(rule(torch.cat([rows, rows], -1)[..., :30]), expected)
    torch.testing.assert_close(rule(rows.clone().requires_grad_()).detach(), expected)
    with torch.inference_mode():
        torch.testing.assert_close(rule(rows.clone()), expected)


@every_rule
def test_coordinatewise_rules_have_no_credits(name):
    rule = aggregation.make(name)
    if not rule.linear:
        with pytest.raises(aggregation.NotLinearError, match=type(rule).__name__):
            rule.credits(torch.ones(5, 2))


def test_largest_byzantine(registered):
    assert aggregation.largest_byzantine("krum", 10, 7) == 3
    assert aggregation.largest_byzantine("krum", 10, 2) == 2
    assert aggregation.largest_byzantine("bulyan", 10, 7) == 1
    assert aggregation.largest_byzantine("mean", 10, 7) == 7
    assert aggregation.largest_byzantine(aggregation.Median, 10, 7) == 4
    assert aggregation.largest_byzantine(aggregation.make("median"), 10, 7) == 4
    with pytest.raises(ValueError, match=r"krum.*n >= 2f \+ 3.*n=2"):
        aggregation.largest_byzantine("krum", 2, 1)
    with pytest.raises(ValueError, match="unknown rule"):
        aggregation.largest_byzantine("nothing", 10, 1)
    registered("mine", lambda **parameters: lambda gradients: gradients.mean(-2))
    assert aggregation.largest_byzantine("mine", 10, 7) == 7


def test_a_plain_callable_is_a_rule(registered):
    registered("first", lambda: lambda gradients: gradients[..., 0, :])
    rows = torch.eye(3)
    assert torch.equal(aggregation.make("first")(rows), rows[0])


def test_combine_ignores_rows_without_credit():
    rows = torch.tensor([[torch.nan, torch.inf], [1.0, 2.0]])
    assert torch.equal(aggregation.combine(torch.tensor([0.0, 1.0]), rows), rows[1])


def test_no_import_from_above():
    code = (
        "import sys, types; package = types.ModuleType('byzgym'); package.__path__ = [sys.argv[1]];"
        "sys.modules['byzgym'] = package; import byzgym.aggregation;"
        "print([m for m in sys.modules if m.split('.')[0] in ('gymnasium', 'stable_baselines3') or"
        " m.startswith('byzgym.')"
        " and m.split('.')[1] not in"
        " ('aggregation', 'compilation', 'memory', 'precision', 'registry', 'validation')])"
    )
    import byzgym

    done = subprocess.run(
        [sys.executable, "-c", code, next(iter(byzgym.__path__))], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("rows", [np.ones((3, 2)), [[1.0, 2.0]] * 3])
def test_submissions_must_be_a_tensor(rows):
    for call in (aggregation.make("mean"), aggregation.make("median"), aggregation.make("krum").credits):
        with pytest.raises(TypeError, match="gradients must be a tensor, got"):
            call(rows)


def test_submissions_of_eight_bits_are_refused():
    with pytest.raises(ValueError, match=r"\(64, 32 or 16 bits\) .* got torch.float8_e5m2 of shape \(3, 2\)"):
        aggregation.make("median")(torch.ones(3, 2).to(torch.float8_e5m2))


def test_credits_of_another_type_than_the_submissions():
    class Double(aggregation.Weighting):
        def _credits(self, gradients):
            return gradients.new_full(gradients.shape[:-1], 1 / gradients.shape[-2], dtype=torch.float64)

    rows = torch.tensor([[1.0, 2], [3, 4], [torch.nan, 0]])
    assert Double()(rows).tolist() == [2, 3]
    assert Double().credits(rows).tolist() == [0.5, 0.5, 0]
    assert Double()(rows[:2]).tolist() == [2, 3]
