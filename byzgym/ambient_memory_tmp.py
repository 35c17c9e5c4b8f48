"""Memory for large temporaries."""

from __future__ import annotations

from functools import cache

import torch

LARGEST_KEPT = 32 << 20
"""Bytes up to which glibc's allocator learns (its DEFAULT_MMAP_THRESHOLD_MAX)."""


@cache
def keep_freed_memory() -> None:
    """Let the process keep memory that it frees, for its next use.

    A round frees some megabytes of temporaries and asks for them again in the next. At first glibc gives so
    much back to the system, which hands it out anew page by page; that can take ten times as long as the
    operation that fills it. Once a large block has been freed, glibc keeps what is smaller (see
    M_MMAP_THRESHOLD in mallopt(3)). The block is never written to, so that it costs no memory; other
    allocators do not care.
    """
    torch.empty(LARGEST_KEPT - (1 << 12), dtype=torch.uint8)
