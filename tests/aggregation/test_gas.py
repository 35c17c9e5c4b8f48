import aggregation_reference as reference
import numpy as np
import pytest
import torch
from aggregation_reference import both_types, chosen

from byzgym import aggregation
from byzgym.aggregation import GAS, gas

ROWS = torch.tensor([[0.0, 0.0], [1.0, 1.0], [2.0, 2.0], [9.0, 2.0]])


def scores(rows, order, length, rule):
    total = np.zeros(len(rows))
    for first in range(0, len(order), length):
        part = rows[:, order[first : first + length]]
        total += np.linalg.norm(part.double() - rule(part).double(), axis=1)
    return total


def test_by_hand():
    # The medians are 1.5 and 1.5. In two parts the scores are 3, 1, 1, 8.
    assert chosen(GAS(1, "median").credits(ROWS)) == [0, 1, 2]
    assert GAS(1, "median")(ROWS).tolist() == [1, 1]
    # About the mean 3, 1.25 the distances are 3.25, 2.02, 1.25, 6.05.
    assert chosen(GAS(1, lambda rows: rows.mean(-2), num_parts=1).credits(ROWS)) == [0, 1, 2]


@pytest.mark.parametrize(
    "other", ["median", "multi_krum", "geometric_median", "bulyan", {"name": "krum"}], ids=str
)
@pytest.mark.parametrize("num_parts", [1, 4, 7, 30, 1000])
@both_types
def test_against_reference(other, num_parts, dtype):
    n, f, d = 11, 2, 30
    rows = reference.draw("gaussian", n, d, seed=num_parts, dtype=dtype)
    rule = GAS(f, other, num_parts, seed=3)
    order = rule._generators(rows)[0].permutation(d)
    told = aggregation.make_for(other, n, f)
    expected = scores(rows, order, -(-d // num_parts), told)
    kept = chosen(rule.credits(rows))
    left = [i for i in range(n) if i not in kept]
    assert len(kept) == n - f
    assert expected[kept].max() <= expected[left].min() * (1 + reference.RTOL[dtype])


def test_blocks_do_not_matter(monkeypatch):
    rows = torch.stack([reference.draw("gaussian", 9, 50, seed=seed) for seed in range(3)])
    for num_parts in (7, 50):
        rule = GAS(2, "median", num_parts)
        monkeypatch.setattr(gas, "BLOCK", 1 << 22)
        expected = rule.credits(rows)
        monkeypatch.setattr(gas, "BLOCK", 9 * 3 * 8)
        assert torch.equal(rule.credits(rows), expected)


def test_the_other_rule_is_told_what_it_accepts():
    told = []

    class Recording(aggregation.Median):
        @classmethod
        def max_byzantine(cls, num_workers):
            return (num_workers - 3) // 2 if num_workers > 2 else -1

        def _aggregate(self, gradients):
            told.append((gradients.shape[-2], self.num_byzantine))
            return super()._aggregate(gradients)

    aggregation.register("recording", Recording)
    rows = reference.draw("gaussian", 9, 5, seed=0)
    rule = GAS(4, "recording", num_parts=1)
    rule(rows)
    rows[[0, 3, 5]] = torch.nan  # f falls to 1
    rule(rows)
    rows[6:] = torch.nan  # three are left, of which it accepts no Byzantine one
    rule(rows)
    GAS(4, {"name": "recording", "num_byzantine": 1}, num_parts=1)(torch.ones(9, 5))
    assert told == [(9, 3), (6, 1), (9, 1)]


def test_what_cannot_be_wrapped_is_refused():
    with pytest.raises(ValueError, match="unknown rule 'medain'"):
        GAS(1, "medain")
    with pytest.raises(ValueError, match=r"needs \['memory', 'qv'\]"):
        GAS(1, "trust")
    with pytest.raises(ValueError, match="num_parts"):
        GAS(1, num_parts=0)
