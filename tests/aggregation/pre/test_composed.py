"""Rules behind pre-aggregators: results, credits, f, rejected submissions, memory."""

import copy

import aggregation_reference as reference
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from byzgym import aggregation
from byzgym.aggregation import NotLinearError, ServerRule, ServerView, pre
from byzgym.memory import Memory

CHAINS = [["nnm"], ["bucketing"], ["static_clipping:max_norm=0.5"], ["arc"], ["normalize"], ["secure_groups"]]
CHAINS += [["nnm", "bucketing"], ["bucketing", "nnm"], ["secure_groups", "arc", "nnm"], ["normalize", "nnm"]]
every_chain = pytest.mark.parametrize("chain", CHAINS, ids="+".join)
RULES = ["mean", "krum", "multi_krum", "median", "geometric_median"]
every_rule = pytest.mark.parametrize("name", RULES)


def view_of(gradients, **fields):
    theta = torch.zeros(len(gradients), gradients.shape[2])
    loss = {"qv_loss": lambda theta: (theta - 1).square().mean(1)}
    return ServerView(gradients, theta, 0.1, **{**loss, **fields})


def by_hand(chain, name, rows, f):
    """One pre-aggregator after the other, and the rule on what they leave."""
    for spec in chain:
        made = pre.make_from(spec, f)
        rows, f = made(rows), made.num_bad(rows.shape[-2], f)
    return aggregation.make(name, num_byzantine=f)(rows)


# Alone, bucketing draws otherwise than behind another one.
@pytest.mark.parametrize("chain", [chain for chain in CHAINS if "bucketing" not in chain[1:]], ids="+".join)
@every_rule
def test_the_rule_acts_on_what_the_chain_leaves(chain, name):
    rows = torch.stack([reference.draw("gaussian", 15, 6, seed) for seed in range(3)])
    rule = aggregation.make_for({"name": name, "pre": chain}, 15, 1)
    torch.testing.assert_close(rule(rows), by_hand(chain, name, rows, 1))
    for run, result in zip(rows, rule(rows), strict=True):
        torch.testing.assert_close(rule(run), result)


@every_chain
@pytest.mark.parametrize("name", ["mean", "krum", "geometric_median"])
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), family=st.sampled_from(("gaussian", "ties", "offset", "equal_rows")))
def test_the_aggregate_is_the_weighted_sum_of_the_submissions(chain, name, seed, family):
    rows = reference.draw(family, 15, 6, seed, torch.float64)
    rule = aggregation.make_for({"name": name, "pre": chain}, 15, 1)
    credits = rule.credits(rows)
    assert (credits >= 0).all()
    if rule.linear:
        assert credits.sum() <= 1 + 1e-6
    torch.testing.assert_close(credits @ rows, rule(rows), rtol=1e-6, atol=1e-6)


def test_credits_by_hand():
    rows = torch.tensor([[0.0], [1.0], [2.0], [4.0], [100.0]])
    # NNM(f=1) makes 1.75, 1.75, 1.75, 1.75, 26.75: the mean of the first four rows, and of the last four.
    # Of these the scores of Krum are 0, 0, 0, 0, ...: it picks the first.
    assert aggregation.make("nnm+krum", num_byzantine=1).credits(rows).tolist() == [0.25, 0.25, 0.25, 0.25, 0]
    mean = aggregation.make("nnm+mean", num_byzantine=1)
    torch.testing.assert_close(mean.credits(rows), torch.tensor([0.2, 0.25, 0.25, 0.25, 0.05]))
    # Clipped to 2: 0, 1, 2, 2, 2.
    clipped = aggregation.make("static_clipping+mean", num_byzantine=1)
    torch.testing.assert_close(clipped.credits(rows), torch.tensor([0.2, 0.2, 0.2, 0.1, 0.004]))
    assert clipped(rows).item() == pytest.approx(7 / 5)


def test_a_rule_without_credits_has_none_behind_a_chain():
    rule = aggregation.make("nnm+median", num_byzantine=1)
    assert not rule.linear
    with pytest.raises(NotLinearError, match=r"Median.*has no credits"):
        rule.credits(torch.ones(5, 2))
    pre.register("sign", lambda: torch.sign)
    signs = aggregation.make("sign+mean")
    assert signs(torch.tensor([[2.0], [-3.0], [9.0]])).item() == pytest.approx(1 / 3)
    assert signs.decide(view_of(torch.ones(1, 3, 2))).credits is None
    with pytest.raises(NotLinearError):
        signs.credits(torch.ones(3, 2))


@every_chain
@pytest.mark.parametrize("name", ["mean", "krum", "median"])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_rejected_submissions_have_no_effect(chain, name, bad):
    runs = torch.stack([reference.draw("gaussian", 15, 5, seed) for seed in range(4)])
    spoiled = runs.clone()
    for run, workers in enumerate(([], [3], [0, 1, 14], list(range(15)))):
        spoiled[run, workers, 2] = bad
    rule = aggregation.make_for({"name": name, "pre": chain}, 15, 1)
    result = rule(spoiled)
    assert result.isfinite().all()
    assert not result[3].any()
    torch.testing.assert_close(result[0], rule(runs)[0])
    decision = rule.decide(view_of(spoiled))
    assert decision.update.isfinite().all()
    if decision.credits is not None:
        assert not decision.credits[spoiled.isfinite().all(2).logical_not()].any()
        torch.testing.assert_close(rule.credits(spoiled)[3], torch.full((15,), 1 / 15))
    if chain == ["nnm"]:  # f falls with the number of rejected ones
        left = [worker for worker in range(15) if worker != 3]
        torch.testing.assert_close(result[1], aggregation.make(f"nnm+{name}", num_byzantine=0)(runs[1, left]))


def test_of_few_submissions_the_mean_is_taken():
    rows = torch.full((7, 3), torch.nan)
    rows[:2] = torch.tensor([[1.0], [2.0]])
    torch.testing.assert_close(aggregation.make("nnm+krum", num_byzantine=1)(rows), torch.full((3,), 1.5))


def test_conditions_are_of_what_reaches_the_rule():
    for text, n, largest in (
        ("nnm+mean", 10, 4),
        ("nnm+krum", 10, 3),
        ("bucketing+median", 10, 2),
        ("bucketing:size=3+median", 10, 1),
        ("secure_groups:size=2+nnm+mean", 12, 2),
        ("bucketing:size=5+krum", 10, -1),
        ("normalize+mean", 10, 9),
    ):
        rule = aggregation.make(text, num_byzantine=0)
        assert rule.max_byzantine(n) == largest, text
        if largest >= 0:
            assert aggregation.make_for(text, n, 9).num_byzantine == largest
            with pytest.raises(ValueError, match=f"num_byzantine={largest + 1}: .*accepts here is {largest}"):
                aggregation.make(text, num_byzantine=largest + 1)(torch.ones(n, 2))
    with pytest.raises(ValueError, match=r"rule bucketing:size=5\+krum needs n >= 2f \+ 3 behind Bucketing"):
        aggregation.make_for("bucketing:size=5+krum", 10, 1)


class Growing(ServerRule):
    """The mean of what each row has been so far, to see whose memory is whose."""

    needs, linear, uses_num_byzantine = frozenset({"memory"}), True, False

    def _decide(self, view):
        seen = view.memory.read("growing", *view.gradients.shape[1:]) + view.gradients
        view.memory.write("growing", seen)
        credits = (~view.rejected).float() / (~view.rejected).sum(1, keepdim=True).clamp(min=1)
        decision = aggregation.Decision.from_credits(credits, view)
        self.seen = seen
        return decision


def test_a_rule_with_a_memory_sees_what_the_chain_leaves():
    made = []
    aggregation.register("growing", lambda: made.append(Growing()) or made[-1])
    rows, memory = reference.draw("gaussian", 6, 4, 0)[None], Memory(1)
    rule = aggregation.make("secure_groups+growing")
    assert rule.needs == {"memory"}
    for number in range(2):
        view = view_of(rows, memory=memory, round=torch.tensor([number]))
        decision = rule.decide(view)
        torch.testing.assert_close(decision.update, rows.mean(1))
        torch.testing.assert_close(decision.credits, torch.full((1, 6), 1 / 6))
    bad = rows.clone()
    bad[0, 0, 0] = torch.nan
    decision = rule.decide(view_of(bad, memory=memory))
    groups = pre.make("secure_groups")(rows)
    torch.testing.assert_close(decision.credits, torch.tensor([[0, 0, 0.25, 0.25, 0.25, 0.25]]))
    state = memory.state()
    (name,) = [key for key in state if key.endswith("growing")]
    assert name == "SecureGroups(size=2)/growing"  # apart from what the rule alone would keep
    torch.testing.assert_close(state[name][0], groups[0] * torch.tensor([[2.0], [3.0], [3.0]]))
    assert torch.equal(view_of(bad).gradients[0, 0], torch.zeros(4))


def test_a_rule_with_the_servers_data():
    rows = reference.draw("gaussian", 6, 4, 0)[None]
    plain, behind = Memory(1), Memory(1)
    rule, composed = aggregation.make("trust"), aggregation.make("static_clipping:max_norm=1e+9+trust")
    for _ in range(3):
        expected = rule.decide(view_of(rows, memory=plain))
        decision = composed.decide(view_of(rows, memory=behind))
        torch.testing.assert_close(decision.update, expected.update)
        torch.testing.assert_close(decision.credits, expected.credits)
    with pytest.raises(TypeError, match="call decide"):
        composed(rows)
    with pytest.raises(ValueError, match="keeps a memory"):
        composed.decide(view_of(rows))


def test_a_composition_tells_what_it_is():
    rule = aggregation.make("nnm+bucketing+krum", num_byzantine=1)
    assert repr(rule) == "NNM(num_byzantine=1) + Bucketing(size=2, seed=0) + Krum(num_byzantine=1)"
    assert (rule.linear, rule.random, rule.symmetric) == (True, True, False)
    assert rule.uses_num_byzantine
    assert not aggregation.make("bucketing+mean").uses_num_byzantine
    assert not aggregation.make("nnm+median", num_byzantine=1).differentiable
    assert copy.deepcopy(rule)(torch.ones(11, 2)).shape == (2,)


def test_clipped_outliers_leave_nothing_behind():
    rows = reference.draw("gaussian", 9, 4, 0)
    rows[:2] *= 1e30
    result = aggregation.make("static_clipping:max_norm=1e-8+mean")(rows)
    torch.testing.assert_close(result, pre.make("static_clipping", max_norm=1e-8)(rows).mean(0))
    assert result.norm() <= 1e-8


def test_gradients_flow_through():
    rows = reference.draw("gaussian", 7, 5, 0, torch.float64).requires_grad_()
    for text in ("nnm+mean", "static_clipping:max_norm=1+mean", "arc+geometric_median", "secure_groups+mean"):
        rule = aggregation.make_for(text, 7, 1)
        assert torch.autograd.gradcheck(rule, rows, atol=1e-4), text


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_types(dtype):
    rows = reference.draw("gaussian", 12, 5, 0).to(dtype)
    for chain in CHAINS:
        rule = aggregation.make_for({"name": "mean", "pre": chain}, 12, 1)
        assert rule(rows).dtype == rule.credits(rows).dtype == dtype
        assert rule(rows.expand(2, 3, -1, -1)).shape == (2, 3, 5)
        assert rule(rows.new_zeros(0, 12, 5)).shape == (0, 5)
