"""Gradients of every rule with respect to the submissions."""

import aggregation_reference as reference
import pytest
import torch

from byzgym import aggregation

PRECISE = {"geometric_median": {"tolerance": 1e-12}}
OF_SUBMISSIONS = [name for name in aggregation.names() if not aggregation.make(name, num_byzantine=1).needs]
DIFFERENTIABLE = [name for name in OF_SUBMISSIONS if aggregation.make(name, num_byzantine=1).differentiable]
# These look at norms, so their gradients do not sum to the identity.
ABOUT_ZERO = ("norm_clipping", "signguard", "clipped_clustering", "flame")
every_differentiable_rule = pytest.mark.parametrize("name", DIFFERENTIABLE)


@every_differentiable_rule
@pytest.mark.parametrize(("n", "d"), [(5, 5), (6, 3), (9, 2)])
def test_against_finite_differences(name, n, d):
    rule = aggregation.make(name, num_byzantine=1, **PRECISE.get(name, {}))
    rows = torch.stack([reference.draw("gaussian", n, d, seed, torch.float64) for seed in range(4)])
    assert torch.autograd.gradcheck(rule, rows.requires_grad_(), atol=1e-5, rtol=1e-4)


def test_the_other_rules_are_detached():
    others = {name for name in OF_SUBMISSIONS if name not in DIFFERENTIABLE}
    coordinatewise = {"median", "trimmed_mean", "mean_around_median", "bulyan", "sign_vote"}
    assert others == coordinatewise | {"rfa", "auto_gm", "caf", "foundation"}
    rows = reference.draw("gaussian", 9, 3, seed=0).requires_grad_()
    assert not any(aggregation.make(name, num_byzantine=1)(rows).requires_grad for name in others)


@every_differentiable_rule
def test_rejected_row_gets_no_gradient(name):
    rows = reference.draw("gaussian", 9, 3, seed=0, dtype=torch.float64)
    rows[4, 1] = torch.inf
    rows.requires_grad_()
    aggregation.make(name, num_byzantine=1)(rows).sum().backward()
    assert rows.grad.isfinite().all()
    assert not rows.grad[4].any()
    if name not in ABOUT_ZERO:
        torch.testing.assert_close(rows.grad.sum(0), torch.ones(3, dtype=torch.float64))


@every_differentiable_rule
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
def test_zero_rows_have_finite_gradients(name, dtype):
    rows = torch.zeros(9, 5, dtype=dtype, requires_grad=True)
    aggregation.make(name, num_byzantine=1)(rows).sum().backward()
    torch.testing.assert_close(rows.grad.sum(0), torch.ones(5, dtype=dtype))
