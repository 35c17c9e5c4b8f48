"""Sorting networks sort, by the 0-1 principle, and programs hold no operation that is not needed."""

import itertools

import numpy as np
import pytest

from byzgym.numerics import sorting_networks as networks


@pytest.mark.parametrize("n", range(1, 13))
def test_zeros_and_ones_are_sorted(n):
    comparators, order = networks.sorting_network(n)
    wires = np.array(list(itertools.product((0, 1), repeat=n)), dtype=np.int8).T
    for low, high in comparators:
        wires[low], wires[high] = np.minimum(wires[low], wires[high]), np.maximum(wires[low], wires[high])
    assert (np.diff(wires[order], axis=0) >= 0).all()


@pytest.mark.parametrize("n", [16, 37, 50, 60])
def test_integers_are_sorted(n):
    comparators, order = networks.sorting_network(n)
    wires = np.random.default_rng(n).integers(0, 20, (n, 2000))
    expected = np.sort(wires, axis=0)
    for low, high in comparators:
        wires[low], wires[high] = np.minimum(wires[low], wires[high]), np.maximum(wires[low], wires[high])
    assert (wires[order] == expected).all()


def test_every_operation_is_needed():
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


def test_mean_of_all_needs_no_comparison():
    kinds = {operation.kind for operation in networks.trimmed_mean_program(20, 0).operations}
    assert kinds == {"add", "divide"}
    kinds = {operation.kind for operation in networks.mean_around_median_program(20, 20).operations}
    assert kinds == {"add", "divide"}
