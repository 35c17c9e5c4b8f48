"""Conditions, shapes, types, modes and rejected rows; rules that need the server; callables as rules."""

import re

import aggregation_reference as reference
import numpy as np
import pytest
import torch

from byzgym import aggregation
from byzgym.aggregation import CallableRule, Decision, NotLinearError, ServerRule, ServerView
from byzgym.memory import Memory

MEDIANS = ("median", "geometric_median", "mean_around_median", "medoid")
CONDITIONS = {
    **dict.fromkeys(("mean", "norm_clipping"), "n >= f + 1"),
    **dict.fromkeys((*MEDIANS, "trimmed_mean", "faba", "brute_force"), "n >= 2f + 1"),
    **dict.fromkeys(("auto_gm", "caf", "cge", "clipped_clustering", "dnc", "flame"), "n >= 2f + 1"),
    **dict.fromkeys(("gas", "monna", "rfa", "sign_vote", "signguard", "smea"), "n >= 2f + 1"),
    **dict.fromkeys(("krum", "multi_krum"), "n >= 2f + 3"),
    "bulyan": "n >= 4f + 3",
}
every_rule = pytest.mark.parametrize("name", CONDITIONS)
CHANGES_A_SINGLE_ROW = ("norm_clipping", "sign_vote", "flame")


def build(name, num_byzantine=0, **parameters):
    return aggregation.make(name, num_byzantine=num_byzantine, **parameters)


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def view_of(gradients, **fields):
    theta = torch.zeros(len(gradients), gradients.shape[2])
    return ServerView(gradients, theta, 0.1, **{"qv_loss": None, **fields})


@pytest.mark.parametrize(("name", "condition"), CONDITIONS.items())
def test_conditions(name, condition):
    demand = re.sub(r"(\d)f", r"\1 * f", condition)
    for n in range(1, 25):
        largest = max((f for f in range(n) if eval(demand, {"n": n, "f": f})), default=-1)
        assert type(build(name)).max_byzantine(n) == largest
        rows = torch.ones(n, 2)
        if largest >= 0:
            build(name, largest)(rows)
        too_many = build(name, largest + 1)
        calls = [too_many] + [too_many.credits] * too_many.linear
        for call in (*calls, lambda rows, rule=too_many: rule.decide(view_of(rows[None]))):
            with pytest.raises(ValueError, match=f"{re.escape(condition)}.*num_byzantine={largest + 1}"):
                call(rows)


@every_rule
def test_bad_calls_are_named(name):
    for value in (-1, 1.5, True, "2"):
        with pytest.raises(ValueError, match="num_byzantine"):
            build(name, value)
    rule = build(name)
    for call in [rule] + [rule.credits] * rule.linear:
        for wrong in (torch.ones(5), torch.ones(5, 0), torch.ones(0, 3)):
            with pytest.raises(ValueError, match="gradients must"):
                call(wrong)
        for dtype in (torch.int64, torch.bool, torch.float8_e5m2):
            with pytest.raises(ValueError, match=rf"\(64, 32 or 16 bits\) .* got {dtype} of shape \(5, 3\)"):
                call(torch.ones(5, 3).to(dtype))
        for wrong in (np.ones((3, 2)), np.ma.ones((3, 2)), [[1.0, 2.0]] * 3, normal(3, 2).to_sparse()):
            with pytest.raises(TypeError, match=r"gradients must be a (dense )?tensor"):
                call(wrong)
    for given in () if rule.linear else (torch.ones(5, 2), view_of(torch.ones(1, 5, 2))):
        with pytest.raises(NotLinearError, match=type(rule).__name__):
            rule.credits(given)


@every_rule
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_results_have_the_type_of_the_rows(name, dtype):
    rule = build(name)
    for shape in ((5, 3), (2, 5, 3), (2, 4, 5, 3), (5, 1), (0, 9, 4), (2, 0, 9, 4)):
        rows = normal(*shape).to(dtype)
        result = rule(rows)
        assert (result.dtype, result.shape) == (dtype, shape[:-2] + shape[-1:])
        if rule.linear:
            credits = rule.credits(rows)
            assert (credits.dtype, credits.shape) == (dtype, shape[:-1])
        tolerance = 1e-5 if dtype.itemsize > 2 else 0.02
        torch.testing.assert_close(result.float(), rule(rows.float()), rtol=tolerance, atol=tolerance)


@every_rule
def test_layouts_and_modes(name):
    rows, rule = normal(2, 7, 300) + 3, build(name, 1)
    expected = rule(rows)
    torch.testing.assert_close(rule(rows.mT.contiguous().mT), expected)
    torch.testing.assert_close(rule(torch.cat([rows, rows], -1)[..., :300]), expected)
    torch.testing.assert_close(rule(rows.clone().requires_grad_()).detach(), expected)
    with torch.inference_mode():
        torch.testing.assert_close(rule(rows.clone()), expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(rule(rows), expected)
        torch.testing.assert_close(rule.decide(view_of(rows)).update, expected)
        if rule.linear:
            mixed = aggregation.combine(rule.credits(rows), rows)
            torch.testing.assert_close(mixed, expected, rtol=1e-6, atol=1e-6)


class TestRejectedRows:
    @every_rule
    @pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
    @pytest.mark.parametrize("size", [1, 1e30])
    def test_the_rule_acts_on_the_others(self, name, bad, size):
        rows = size * reference.draw("gaussian", 12, 6, seed=0)
        rows[1, 0] = bad
        for rejected, left in (([1], 1), ([1, 4], 0)):  # f falls with the number of rejected rows
            rows[4, 5] = bad if 4 in rejected else 1.0
            others = [i for i in range(12) if i not in rejected]
            rule = build(name, 2)
            expected = build(name, left)(rows[others])
            torch.testing.assert_close(rule(rows), expected, rtol=1.3e-6, atol=1e-6 * size)
            assert rule.num_byzantine == 2
            if rule.linear:
                credits = rule.credits(rows)
                assert not credits[rejected].any()
                torch.testing.assert_close(credits.sum(), torch.tensor(1.0))

    @every_rule
    def test_runs_with_different_numbers(self, name):
        runs = torch.stack([reference.draw("gaussian", 9, 5, seed=seed) for seed in range(6)])
        for run, count in enumerate((0, 3, 1, 8, 9, 5)):
            runs[run, torch.randperm(9, generator=torch.Generator().manual_seed(run))[:count]] = torch.nan
        rule = build(name, 1)
        together = rule(runs.reshape(3, 2, 9, 5)).reshape(6, 5)
        for run, result in zip(runs, together, strict=True):
            torch.testing.assert_close(result, rule(run))
        decision = rule.decide(view_of(runs))
        torch.testing.assert_close(decision.update, together)
        if name not in CHANGES_A_SINGLE_ROW:  # f and the rule itself do what they can with one row
            assert torch.equal(together[3], runs[3][runs[3].isfinite().all(-1)][0])
        assert not together[4].any()
        if rule.linear:
            torch.testing.assert_close(rule.credits(runs)[4], torch.full((9,), 1 / 9))
            assert not decision.credits[4].any()

    def test_multi_krum_selects_from_what_is_left(self):
        rows = reference.draw("gaussian", 7, 5, seed=0)
        rows[:3] = torch.nan
        credits = build("multi_krum", 1, num_selected=6).credits(rows)
        torch.testing.assert_close(credits, torch.tensor([0, 0, 0, 0.25, 0.25, 0.25, 0.25]))


class Gradual(ServerRule):
    needs, linear = frozenset({"memory"}), True

    def _decide(self, view):
        credits = (view.memory.read("gradual", view.num_workers) + 1 / view.num_workers) / 2
        view.memory.write("gradual", credits)
        return Decision.from_credits(credits, view)


class Descent(ServerRule):
    needs = frozenset({"memory", "qv"})

    def _decide(self, view):
        return Decision(view.qv_gradient)


def test_a_rule_with_a_memory():
    memory, rule, rows = Memory(2), Gradual(), normal(2, 4, 5)
    rows[1, 0] = torch.nan
    for total in (0.5, 0.75, 0.875):
        decision = rule.decide(view_of(rows, memory=memory))
        torch.testing.assert_close(decision.credits.sum(1), torch.full((2,), total))
        assert decision.credits[1, 0] == 0
    memory.reset([0])
    credits = rule.credits(view_of(rows, memory=memory))
    torch.testing.assert_close(credits.sum(1), torch.tensor([0.5, 0.9375]))


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_a_rule_with_the_qv_loss(mode):
    with mode():
        rows = normal(2, 4, 5)
        view = view_of(rows, memory=Memory(2), qv_loss=lambda theta: (theta - 3).square().sum(1))
        assert torch.equal(Descent().aggregate(view), torch.full((2, 5), -6.0))
    with pytest.raises(NotLinearError, match="Descent"):
        Descent().credits(view)


def test_what_a_server_rule_lacks_is_named():
    rows, memory = normal(2, 4, 5), Memory(2)
    wanted = r"^Descent.* needs a memory and the QV loss, which a tensor lacks: call decide\(view\)"
    for call in (Descent(), Descent().credits, Descent().decide):
        with pytest.raises(TypeError, match=wanted):
            call(rows)
    for rule, view, message in (
        (Gradual(), view_of(rows), "Gradual.* keeps a memory: .*memory=Memory"),
        (Descent(), view_of(rows, memory=memory), "Descent.* reads the QV loss: .*qv_loss"),
        (Gradual(4), view_of(rows, memory=memory), r"needs n >= f \+ 1, got n=4 and num_byzantine=4"),
    ):
        with pytest.raises(ValueError, match=message):
            rule.decide(view)


def test_a_callable_gets_accepted_rows_only():
    rows = torch.tensor([[[torch.nan], [1.0], [5.0]], [[2.0], [3.0], [4.0]]])
    rule = CallableRule(lambda gradients: gradients[..., 0, :])
    assert rule(rows).tolist() == rule.decide(view_of(rows)).update.tolist() == [[1], [2]]
    assert not rule.linear


def test_a_callable_that_fails_is_named():
    with pytest.raises(TypeError, match="positional argument") as caught:
        CallableRule(lambda: None, "mine")(normal(2, 4, 5))
    assert caught.value.__notes__ == ["raised by rule 'mine'"]


@pytest.mark.parametrize("result", [None, torch.zeros(3), torch.zeros(2, 5).to_sparse()], ids=str)
def test_a_callable_must_return_vectors(result):
    with pytest.raises((TypeError, ValueError), match="the result of rule 'mine' must"):
        CallableRule(lambda gradients: result, "mine")(normal(2, 4, 5))
