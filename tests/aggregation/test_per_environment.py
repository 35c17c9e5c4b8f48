"""A rule for each environment, as one callable."""

import pytest
import torch

from byzgym import aggregation
from byzgym.aggregation import RulePerEnvironment

RULES = [aggregation.make(name, num_byzantine=1) for name in ("median", "krum", "mean")]


def test_each_environment_has_its_own():
    numbers, rows = torch.tensor([1, 0, 1, 2]), torch.rand(4, 6, 5, generator=torch.Generator())
    rule = RulePerEnvironment(RULES, numbers)
    expected = torch.stack([RULES[number](row) for number, row in zip(numbers.tolist(), rows, strict=True)])
    numbers.zero_()  # the caller's own
    assert torch.equal(rule(rows), expected)
    assert torch.equal(rule(rows[:, None].expand(4, 3, 6, 5)), expected[:, None].expand(4, 3, 5))
    assert torch.equal(rule.of([3, 0])(rows[[3, 0]]), expected[[3, 0]])
    for wrong in (rows[0], rows[:3]):
        with pytest.raises(ValueError, match=r"gradients must have shape \[4, ..., n, d\], got \["):
            rule(wrong)
