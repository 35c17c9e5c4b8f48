"""Sorting networks sort, by the 0-1 principle, and programs hold no operation that is not needed."""

import itertools

import numpy as np
import pytest

from byzgym.numerics import sorting_networks as networks


@pytest.mark.parametrize("n", [*range(1, 13), 37, 60])
def test_networks_sort(n):
    if n <= 12:
        wires = np.array(list(itertools.product((0, 1), repeat=n)), dtype=np.int8).T
    else:  # too many zeros and ones to try them all
        wires = np.random.default_rng(n).integers(0, 20, (n, 2000))
    comparators, order = networks.sorting_network(range(n))
    for low, high in comparators:
        wires[low], wires[high] = np.minimum(wires[low], wires[high]), np.maximum(wires[low], wires[high])
    assert (np.diff(wires[order], axis=0) >= 0).all()


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
    for program in (networks.trimmed_mean_program(20, 0), networks.mean_around_median_program(20, 20)):
        assert {operation.kind for operation in program.operations} == {"add", "divide"}
