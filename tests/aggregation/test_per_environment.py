"""A rule for each environment, as one callable."""

import pytest
import torch

from byzgym import aggregation
from byzgym.aggregation import RulePerEnvironment

RULES = [aggregation.make(name, num_byzantine=1) for name in ("median", "krum", "mean")]


def test_each_environment_has_its_own():
    numbers, rows = torch.tensor([1, 0, 1, 2]), torch.randn(4, 6, 5, generator=torch.Generator().manual_seed(0))
    rule = RulePerEnvironment(RULES, numbers)
    expected = torch.stack([RULES[number](row) for number, row in zip(numbers.tolist(), rows, strict=True)])
    numbers.zero_()  # the caller's own
    assert torch.equal(rule(rows), expected)
    several = rows[:, None].expand(4, 3, 6, 5)
    assert torch.equal(rule(several), expected[:, None].expand(4, 3, 5))
    assert torch.equal(rule.of([3, 0])(rows[[3, 0]]), expected[[3, 0]])
    assert [(number, envs.tolist()) for number, envs in rule.groups()] == [(0, [1]), (1, [0, 2]), (2, [3])]


@pytest.mark.parametrize("shape", [(6, 5), (3, 6, 5)])
def test_other_numbers_of_environments_are_named(shape):
    with pytest.raises(ValueError, match=r"gradients must have shape \[2, ..., n, d\], got \["):
        RulePerEnvironment(RULES, torch.tensor([1, 0]))(torch.zeros(shape))
