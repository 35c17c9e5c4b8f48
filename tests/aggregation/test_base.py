"""Conditions, shapes, types, modes and rejected rows; rules that need the server; callables as rules."""

import re

import aggregation_reference as reference
import numpy as np
import pytest
import torch

from byzgym import aggregation
from byzgym.aggregation import CallableRule, Decision, NotLinearError, ServerRule, ServerView
from byzgym.memory import Memory

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
        calls = [too_many, too_many.credits if too_many.linear else too_many]
        for call in (*calls, lambda rows, rule=too_many: rule.decide(view_of(rows[None]))):
            with pytest.raises(ValueError, match=f"{re.escape(condition)}.*num_byzantine={largest + 1}"):
                call(rows)


@every_rule
@pytest.mark.parametrize("value", [-1, 1.5, True, "2"])
def test_f_is_checked(name, value):
    with pytest.raises(ValueError, match="num_byzantine"):
        build(name, value)


@every_rule
def test_shape_and_type_are_checked(name):
    rule = build(name)
    calls = [rule] + [rule.credits] * rule.linear
    for call in calls:
        for wrong in (torch.ones(5), torch.ones(5, 0), torch.ones(0, 3)):
            with pytest.raises(ValueError, match="gradients must"):
                call(wrong)
        for dtype in (torch.int64, torch.bool, torch.float8_e5m2):
            with pytest.raises(ValueError, match=rf"\(64, 32 or 16 bits\) .* got {dtype} of shape \(5, 3\)"):
                call(torch.ones(5, 3).to(dtype))
        for wrong in (np.ones((3, 2)), np.ma.ones((3, 2)), [[1.0, 2.0]] * 3, normal(3, 2).to_sparse()):
            with pytest.raises(TypeError, match="gradients must be a (dense )?tensor"):
                call(wrong)


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
        rows[[1, 4], [0, 5]] = bad
        others = [i for i in range(12) if i not in (1, 4)]
        for told, left in ((2, 0), (0, 0)):  # f falls with the number of rejected rows
            rule = build(name, told)
            torch.testing.assert_close(rule(rows), build(name, left)(rows[others]))
            assert rule.num_byzantine == told
            if rule.linear:
                credits = rule.credits(rows)
                assert credits[[1, 4]].tolist() == [0, 0]
                torch.testing.assert_close(credits.sum(), torch.tensor(1.0))
        rows[4] = 1.0
        torch.testing.assert_close(build(name, 2)(rows), build(name, 1)(rows[[0, *range(2, 12)]]))

    @every_rule
    def test_f_is_lowered_to_what_is_accepted(self, name):
        rows = torch.full((9, 4), torch.nan)
        for left in (1, 2):
            rows[3 : 3 + left] = torch.tensor([[1.0, 0.0, 0.5, -1.0]])
            rule = build(name, 1)
            torch.testing.assert_close(rule(rows), rows[3])
            if rule.linear:
                assert rule.credits(rows)[3 : 3 + left].sum() == 1

    @every_rule
    def test_runs_with_different_numbers(self, name):
        runs = torch.stack([reference.draw("gaussian", 9, 5, seed=seed) for seed in range(6)])
        for run, count in enumerate((0, 3, 1, 3, 9, 5)):
            runs[run, torch.randperm(9, generator=torch.Generator().manual_seed(run))[:count]] = torch.nan
        rule = build(name, 1)
        together = rule(runs.reshape(3, 2, 9, 5)).reshape(6, 5)
        for run, result in zip(runs, together, strict=True):
            torch.testing.assert_close(result, rule(run))
        decision = rule.decide(view_of(runs))
        torch.testing.assert_close(decision.update, together)
        assert not together[4].any()
        if rule.linear:
            torch.testing.assert_close(rule.credits(runs)[4], torch.full((9,), 1 / 9))
            assert not decision.credits[4].any()

    def test_multi_krum_selects_from_what_is_left(self):
        rows = reference.draw("gaussian", 7, 5, seed=0)
        rows[:3] = torch.nan
        credits = build("multi_krum", 1, num_selected=6).credits(rows)
        torch.testing.assert_close(credits, torch.tensor([0, 0, 0, 0.25, 0.25, 0.25, 0.25]))


def test_credits_of_another_type_than_the_rows():
    class Double(aggregation.Weighting):
        def _credits(self, gradients):
            return gradients.new_full(gradients.shape[:-1], 1 / gradients.shape[-2], dtype=torch.float64)

    rows = torch.tensor([[1.0, 2], [3, 4], [torch.nan, 0]])
    assert Double()(rows).tolist() == Double()(rows[:2]).tolist() == [2, 3]
    assert Double().credits(rows).tolist() == [0.5, 0.5, 0]
    assert Double().decide(view_of(rows[None])).update.tolist() == [[2, 3]]


@every_rule
def test_rules_without_credits_say_so(name):
    rule = build(name)
    if not rule.linear:
        for given in (torch.ones(5, 2), view_of(torch.ones(1, 5, 2))):
            with pytest.raises(NotLinearError, match=type(rule).__name__):
                rule.credits(given)


class TestServerRules:
    class Momentum(ServerRule):
        needs = frozenset({"memory"})
        linear = True

        def _decide(self, view):
            last = view.memory.read("momentum", view.num_workers)
            credits = (last + 1 / view.num_workers) / 2
            view.memory.write("momentum", credits)
            return Decision.from_credits(credits, view)

    class Descent(ServerRule):
        needs = frozenset({"memory", "qv"})

        def _decide(self, view):
            return Decision(view.qv_gradient)

    def test_a_memory_over_rounds(self):
        memory, rule, rows = Memory(2), self.Momentum(), normal(2, 4, 5)
        rows[1, 0] = torch.nan
        for total in (0.5, 0.75, 0.875):
            decision = rule.decide(view_of(rows, memory=memory))
            torch.testing.assert_close(decision.credits.sum(1), torch.full((2,), total))
            assert decision.credits[1, 0] == 0
        memory.reset([0])
        credits = rule.credits(view_of(rows, memory=memory))
        torch.testing.assert_close(credits.sum(1), torch.tensor([0.5, 0.9375]))

    def test_the_qv_loss(self):
        for mode in (torch.enable_grad, torch.no_grad, torch.inference_mode):
            with mode():
                rows = normal(2, 4, 5)
                view = view_of(rows, memory=Memory(2), qv_loss=lambda theta: (theta - 3).square().sum(1))
                assert torch.equal(self.Descent().aggregate(view), torch.full((2, 5), -6.0))
            with pytest.raises(NotLinearError, match="Descent"):
                self.Descent().credits(view)

    @pytest.mark.parametrize("call", ["__call__", "credits", "decide"])
    def test_a_tensor_is_not_enough(self, call):
        wanted = r"^Descent.* needs a memory and the QV loss, which a tensor lacks: call decide\(view\)"
        with pytest.raises(TypeError, match=wanted):
            getattr(self.Descent(), call)(normal(2, 4, 5))

    def test_what_a_view_lacks_is_named(self):
        for rule, fields, message in (
            (self.Momentum(), {}, "Momentum.* keeps a memory: .*memory=Memory"),
            (self.Descent(), {"memory": Memory(2)}, "Descent.* reads the QV loss: .*qv_loss"),
            (self.Momentum(4), {"memory": Memory(2)}, r"needs n >= f \+ 1, got n=4 and num_byzantine=4"),
        ):
            with pytest.raises(ValueError, match=message):
                rule.decide(view_of(normal(2, 4, 5), **fields))


def test_a_callable_gets_accepted_rows_only():
    rows = torch.tensor([[[torch.nan], [1.0], [5.0]], [[2.0], [3.0], [4.0]]])
    rule = CallableRule(lambda gradients: gradients[..., 0, :])
    assert rule(rows).tolist() == rule.decide(view_of(rows)).update.tolist() == [[1], [2]]
    assert not rule.linear


@pytest.mark.parametrize("result", [None, torch.zeros(3), torch.zeros(2, 5).to_sparse()], ids=str)
def test_a_callable_must_return_vectors(result):
    with pytest.raises((TypeError, ValueError), match="the result of rule 'mine' must"):
        CallableRule(lambda gradients: result, "mine")(normal(2, 4, 5))
