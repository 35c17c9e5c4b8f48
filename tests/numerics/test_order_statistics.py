"""Programs give the right statistics, whatever the blocks in which they run."""

import aggregation_reference as reference
import pytest
import torch

from byzgym.numerics import order_statistics
from byzgym.numerics.order_statistics import run_program
from byzgym.numerics.sorting_networks import mean_around_median_program, median_program, trimmed_mean_program


@pytest.mark.parametrize("n", [1, 2, 3, 6, 11, 15])
def test_mean_around_median_of_any_number(n):
    rows = reference.draw("gaussian", n, 200, seed=n, dtype=torch.float64)
    for keep in range(1, n + 1):
        result = run_program(mean_around_median_program(n, keep), rows)
        assert reference.is_mean_around_median(rows, keep, result.numpy(), 1e-12)


@pytest.mark.parametrize("per_thread", [1, 7, 64])
def test_blocks_of_any_size_give_the_same(monkeypatch, per_thread):
    rows = torch.stack([reference.draw("gaussian", 7, 53, seed=seed) for seed in range(5)])
    program = mean_around_median_program(7, 4)
    whole = run_program(program, rows)
    monkeypatch.setattr(order_statistics, "SHARED", 1)
    monkeypatch.setattr(order_statistics, "CPU_BLOCK_PER_THREAD", 7 * per_thread)
    assert torch.equal(run_program(program, rows), whole)


def test_sums_that_overflow():
    rows = torch.full((8, 3), 3e38)
    for program in (median_program(8), trimmed_mean_program(8, 1)):
        torch.testing.assert_close(run_program(program, rows), rows[0])


@pytest.mark.slow
@pytest.mark.usefixtures("compiler")
def test_compiled_gives_the_same():
    rows = torch.stack([reference.draw("gaussian", 5, 40, seed=seed) for seed in range(3)])
    for program in (median_program(5), mean_around_median_program(5, 3)):
        for gradients in (rows, rows[0], rows[..., :7]):
            expected = run_program(program, gradients)
            torch.testing.assert_close(run_program(program, gradients, compiled=True), expected)
