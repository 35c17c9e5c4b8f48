"""Comparator programs: correct by the 0-1 principle, and as small as pruning should make them."""

import itertools

import aggregation_reference as reference
import numpy as np
import pytest
import torch

from byzgym.numerics import order_statistics as columns, sorting_networks as networks


@pytest.mark.parametrize("n", range(1, 13))
def test_sorting_network_sorts_all_zero_one_inputs(n):
    comparators, order = networks.sorting_network(n)
    wires = np.array(list(itertools.product((0, 1), repeat=n)), dtype=np.int8).T
    for low, high in comparators:
        wires[low], wires[high] = np.minimum(wires[low], wires[high]), np.maximum(wires[low], wires[high])
    assert (np.diff(wires[order], axis=0) >= 0).all()


@pytest.mark.parametrize("n", [16, 37, 50, 60])
def test_sorting_network_sorts(n):
    comparators, order = networks.sorting_network(n)
    wires = np.random.default_rng(n).integers(0, 20, (n, 2000))
    expected = np.sort(wires, axis=0)
    for low, high in comparators:
        wires[low], wires[high] = np.minimum(wires[low], wires[high]), np.maximum(wires[low], wires[high])
    assert (wires[order] == expected).all()


def test_programs_hold_no_operation_that_is_not_needed():
    for n in (2, 5, 10, 33):
        programs = [networks.median_program(n), networks.trimmed_mean_program(n, (n - 1) // 2)]
        programs += [networks.mean_around_median_program(n, keep) for keep in range(1, n + 1)]
        for program in programs:
            needed = {program.result}
            for operation in reversed(program.operations):
                assert operation.target >= n, "inputs must not be written"
                assert operation.target in needed
                needed.discard(operation.target)
                needed.update(operation.sources)
            assert needed <= set(range(n))
            assert program.num_registers - n <= n + 2


def test_kept_values_are_not_ordered_in_vain():
    # Without trimming, a mean needs no comparison at all.
    kinds = {operation.kind for operation in networks.trimmed_mean_program(20, 0).operations}
    assert kinds == {"add", "divide"}
    kinds = {operation.kind for operation in networks.mean_around_median_program(20, 20).operations}
    assert kinds == {"add", "divide"}


@pytest.mark.parametrize("n", [1, 2, 3, 6, 11, 15])
def test_mean_around_median_for_any_number_kept(n):
    rows = reference.draw("gaussian", n, 200, seed=n, dtype=torch.float64)
    for keep in range(1, n + 1):
        result = columns.run_program(networks.mean_around_median_program(n, keep), rows)
        assert reference.is_mean_around_median(rows, keep, result.numpy(), 1e-12)


@pytest.mark.parametrize("per_thread", [1, 7, 64, 1000])
def test_blocks_of_any_size_give_the_same(monkeypatch, per_thread):
    rows = torch.stack([reference.draw("gaussian", 7, 53, seed=seed) for seed in range(5)])
    program = networks.mean_around_median_program(7, 4)
    whole = columns.run_program(program, rows)
    monkeypatch.setattr(columns, "SHARED", 1)
    monkeypatch.setattr(columns, "CPU_BLOCK_PER_THREAD", 7 * per_thread)
    assert torch.equal(columns.run_program(program, rows), whole)


def test_sums_that_overflow():
    rows = torch.full((8, 3), 3e38)
    for program in (networks.median_program(8), networks.trimmed_mean_program(8, 1)):
        torch.testing.assert_close(columns.run_program(program, rows), rows[0])


@pytest.mark.slow
@pytest.mark.usefixtures("compiler")
def test_compiled_gives_the_same():
    rows = torch.stack([reference.draw("gaussian", 5, 40, seed=seed) for seed in range(3)])
    for program in (networks.median_program(5), networks.mean_around_median_program(5, 3)):
        for gradients in (rows, rows[0], rows[..., :7]):
            expected = columns.run_program(program, gradients)
            torch.testing.assert_close(columns.run_program(program, gradients, compiled=True), expected)
