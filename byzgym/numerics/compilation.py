"""Kernels through `torch.compile`, for those who ask for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.fx


def compile_graph(graph: torch.fx.Graph, operations: int) -> Callable[..., Any]:
    """A function that computes a graph of elementwise operations in one kernel; its first call compiles it.

    Args:
        graph: Its inputs may have any length.
        operations: About how many there are.

    Raises:
        RuntimeError: When called, if `torch.compile` fails.
    """
    # By default a kernel is cut after some sixty operations, and all that is alive there goes through memory.
    options: dict[str, Any] = {"max_fusion_size": 8 * operations}
    # A graph module has code of its own, so that graphs do not use up each other's recompilations.
    kernel = torch.compile(torch.fx.GraphModule(torch.nn.Module(), graph), dynamic=True, options=options)

    def call(*inputs: torch.Tensor) -> Any:
        try:
            return kernel(*inputs)
        except RuntimeError as error:  # importing torch's own class of it takes seconds
            raise RuntimeError(
                "compiled=True did not work, since torch.compile failed; on the CPU it needs a C++ compiler "
                "and Python's headers (on Debian: g++ and python3-dev)"
            ) from error

    return call
