"""Runs the programs of `sorting_networks` over blocks of columns that stay in the cache."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

import torch
import torch.fx
from torch import Tensor

from byzgym.ambient import keep_freed_memory
from byzgym.numerics.sorting_networks import Program

# Values in a block of all rows. On the CPU a block is long enough for PyTorch to share each operation among
# its threads and to hide its dispatch, and short enough for the scratch rows to stay in the cache. On an
# accelerator only memory limits it.
CPU_BLOCK_PER_THREAD = 2_500_000
DEVICE_BLOCK = 1 << 27
SHARED = 1 << 15  # columns from which PyTorch shares an operation among threads
FUNCTIONS: dict[str, Callable[..., Tensor]] = {"min": torch.minimum, "max": torch.maximum, "add": torch.add}


def run_program(program: Program, gradients: Tensor, compiled: bool = False) -> Tensor:
    """Run a program for n rows on finite gradients [..., n, d]; the result [..., d] is detached.

    With ``compiled`` it runs through `torch.compile`; a RuntimeError says so if that fails.
    """
    if gradients.element_size() < 4:  # sums of half precision lose what single precision keeps
        return run_program(program, gradients.float(), compiled).to(gradients.dtype)
    rows = gradients.detach().reshape(-1, *gradients.shape[-2:])
    evaluate = _compiled(program) if compiled else lambda values: _interpret(program, values)
    result: Tensor = evaluate(rows)
    if not math.isfinite(result.sum()):
        # A sum of huge values overflowed, or only this check did. Leave room for n of them.
        room = 2.0 ** math.ceil(math.log2(rows.shape[1]) + 1)
        result = evaluate(rows / room) * room
    return result.reshape(gradients.shape[:-2] + gradients.shape[-1:])


def _blocks(rows: Tensor) -> Iterator[tuple[slice, slice]]:
    """Cut [E, n, d] into blocks (environments, columns) of about equal size, each with all n rows."""
    num_envs, num_rows, num_columns = rows.shape
    on_cpu = rows.device.type == "cpu"
    largest = CPU_BLOCK_PER_THREAD * torch.get_num_threads() if on_cpu else DEVICE_BLOCK
    largest = max(SHARED, largest // num_rows)
    columns = math.ceil(num_columns / math.ceil(num_columns / largest))
    envs = min(num_envs, max(1, largest // columns))
    for env in range(0, num_envs, envs):
        for column in range(0, num_columns, columns):
            yield slice(env, min(env + envs, num_envs)), slice(column, min(column + columns, num_columns))


def _interpret(program: Program, rows: Tensor) -> Tensor:
    result = rows.new_empty(rows.shape[0], rows.shape[2])
    scratch: dict[torch.Size, _Scratch] = {}  # blocks at the edges are smaller
    for envs, columns in _blocks(rows):
        inputs = rows[envs, :, columns].unbind(1)
        shape = inputs[0].shape
        if shape not in scratch:
            scratch[shape] = _Scratch(program, inputs[0])
        result[envs, columns] = scratch[shape].run(inputs)
    return result


class _Scratch:
    """The registers for blocks of one shape, allocated once."""

    def __init__(self, program: Program, example: Tensor) -> None:
        self.program = program
        keep_freed_memory()
        count = program.num_registers - program.num_rows
        self.registers = [torch.empty_like(example) for _ in range(count)]
        self.above, self.below = torch.empty_like(example), torch.empty_like(example)
        self.chosen = torch.empty_like(example, dtype=torch.bool)

    def run(self, inputs: tuple[Tensor, ...]) -> Tensor:
        registers = (*inputs, *self.registers)
        for operation in self.program.operations:
            target, sources = registers[operation.target], operation.sources
            if operation.kind == "divide":
                torch.div(registers[sources[0]], operation.constant, out=target)
            elif operation.kind == "nearer":
                self._nearer(registers[sources[0]], registers[sources[1]], registers[sources[2]], target)
            else:
                FUNCTIONS[operation.kind](registers[sources[0]], registers[sources[1]], out=target)
        return registers[self.program.result]

    def _nearer(self, center: Tensor, low: Tensor, high: Tensor, target: Tensor) -> None:
        torch.sub(center, low, out=self.below)
        torch.sub(high, center, out=self.above)
        torch.le(self.below.abs_(), self.above.abs_(), out=self.chosen)
        torch.where(self.chosen, low, high, out=target)


@lru_cache(maxsize=64)
def _compiled(program: Program) -> Callable[[Tensor], Tensor]:
    """One fused kernel for the whole program; the first call compiles it."""
    graph = torch.fx.Graph()
    registers = {row: graph.placeholder(f"row_{row}") for row in range(program.num_rows)}
    for operation in program.operations:
        sources = [registers[source] for source in operation.sources]
        arguments = (operation.kind, sources, operation.constant)
        registers[operation.target] = graph.call_function(_apply, arguments)
    graph.output(registers[program.result])
    # By default a kernel is cut after some sixty operations, and all that is alive there goes through memory.
    options: dict[str, Any] = {"max_fusion_size": 8 * len(program.operations)}
    # A graph module has code of its own, so that programs do not use up each other's recompilations.
    kernel = torch.compile(torch.fx.GraphModule(torch.nn.Module(), graph), dynamic=True, options=options)

    def evaluate(rows: Tensor) -> Tensor:
        try:
            if len(rows) == 1:  # rows without a dimension for the runs make the faster kernel
                return kernel(*rows[0].unbind(0)).reshape(1, -1).clone()
            return kernel(*rows.unbind(1)).clone()
        except RuntimeError as error:  # importing torch's own class of it takes seconds
            raise RuntimeError(
                "compiled=True did not work, since torch.compile failed; on the CPU it needs a C++ compiler "
                "and Python's headers (on Debian: g++ and python3-dev)"
            ) from error

    return evaluate


def _apply(kind: str, values: list[Tensor], constant: float) -> Tensor:
    if kind == "divide":
        return values[0] / constant
    if kind == "nearer":
        center, low, high = values
        return torch.where((center - low).abs() <= (high - center).abs(), low, high)
    return FUNCTIONS[kind](*values)
