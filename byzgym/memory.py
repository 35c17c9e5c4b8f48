"""What attacks, role functions and rules keep from one round to the next."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from byzgym.ambient import shielded
from byzgym.validation import check_int, check_tensor

BEFORE, UNTIL = " before", " until"
"""Ends of names of what stood there before the round of the last write, and of the number of the next one."""
Rows = tuple[Tensor, ...]
"""Index of environments [E], or of environments and workers, which broadcast to [E, n]."""


class Memory:
    """Named tensors with a row for each environment. All are zero when an episode begins.

    Args:
        num_envs: E, the number of environments.
        device: Where the tensors are kept.

    >>> memory = Memory(num_envs=2)
    >>> attacks = memory.read("attacks", dtype=torch.int64)  # zeros: nothing has been written
    >>> memory.write("attacks", attacks + 5)
    >>> memory.of([1]).write("attacks", torch.tensor([7]))
    >>> memory.read("attacks", dtype=torch.int64)
    tensor([5, 7])
    """

    def __init__(self, num_envs: int, device: torch.device | str = "cpu") -> None:
        self._num_rows = check_int("num_envs", num_envs, low=0)
        self._envs = torch.arange(self._num_rows, device=device)  # the rows that are this memory's own
        self._values: dict[str, Tensor] = {}
        self._prefix = ""  # of the names that this memory reads and writes
        self._round: Tensor | None = None  # [E]; see `at`

    @property
    def num_envs(self) -> int:
        """E, the number of environments."""
        return len(self._envs)

    def read(self, name: str, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """A copy of what was written last, shape [E, *shape]; zeros before the first time.

        Raises:
            ValueError: If what was written has another shape or type.
        """
        return self._read(name, (self._envs,), shape, dtype)

    @shielded
    def write(self, name: str, values: Tensor) -> None:
        """Keep a detached copy of ``values``, shape [E, ...].

        Raises:
            TypeError: If they are not a dense tensor of real numbers.
            ValueError: If they have not E rows, or another shape or type than before.
        """
        check_tensor(f"memory {name!r}", values, self.num_envs, ...)
        self._write(name, (self._envs,), values.shape[1:], values)

    def read_of(
        self, workers: Tensor, total: int, name: str, *shape: int, dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """A copy of what was written last of some workers, shape [E, n, *shape]; zeros before the first time.

        Args:
            workers: Their numbers, each once, int64 from 0 to ``total - 1``, shape [E, n].
            total: Of how many workers this is kept.
            name: Of what is kept. Shape and type are those of one worker's row.

        Raises:
            ValueError: If what was written has another shape or type.
        """
        return self._read(name, (self._envs[:, None], workers), (total, *shape), dtype)

    @shielded
    def write_of(self, workers: Tensor, total: int, name: str, values: Tensor) -> None:
        """Keep a detached copy of the workers' ``values``, shape [E, n, ...]; see `read_of`.

        Raises:
            TypeError: If they are not a dense tensor of real numbers.
            ValueError: If they have not E times n rows, or another shape or type than before.
        """
        check_tensor(f"memory {name!r}", values, *workers.shape, ...)
        self._write(name, (self._envs[:, None], workers), (total, *values.shape[2:]), values)

    def at(self, round: Tensor) -> Memory:
        """This memory in a round [E], int64, of each environment: what it reads was written in earlier ones.

        So a rule that reads, decides and writes decides the same, however often it is asked in a round.

        >>> memory, now = Memory(num_envs=1), torch.tensor([4])
        >>> for round in (now, now, now + 1):
        ...     count = memory.at(round).read("count")
        ...     memory.at(round).write("count", count + 1)
        ...     count
        tensor([0.])
        tensor([0.])
        tensor([1.])
        """
        part = copy.copy(self)
        part._round = round.to(self._envs.device)
        return part

    def section(self, name: str) -> Memory:
        """The part of this memory whose names begin with ``name`` and a slash, which are left out in it.

        Who is given a section cannot meet the names of others.
        """
        section = copy.copy(self)
        section._prefix = f"{self._prefix}{name}/"
        return section

    def of(self, envs: Tensor | Iterable[int]) -> Memory:
        """The memory of the environments with these indices. It reads and writes the rows of this one."""
        part = copy.copy(self)
        part._envs = self._rows_of(envs)
        if self._round is not None:
            part._round = self._round[self._index(envs)]
        return part

    @shielded
    def reset(self, envs: Tensor | Iterable[int] | None = None) -> None:
        """Set the environments with these indices to zero. Where None, forget everything, shapes included."""
        for key in self._keys():
            if envs is None and self.num_envs == self._num_rows:
                del self._values[key]
            else:
                self._values[key][self._envs if envs is None else self._rows_of(envs)] = 0

    def state(self) -> dict[str, Tensor]:
        """A copy of everything, for `load`."""
        return {key.removeprefix(self._prefix): self._values[key][self._envs] for key in self._keys()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Replace everything by what `state` returned; names that it lacks are forgotten."""
        self.reset()
        for name, values in state.items():
            self.write(name, values)

    def _keys(self) -> list[str]:
        return [key for key in self._values if key.startswith(self._prefix)]

    def _read(self, name: str, rows: Rows, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """What rows of a tensor of the memory hold; ``shape`` is that of the tensor in one environment."""
        key = self._prefix + name
        if key not in self._values:
            of_row = shape[len(rows) - 1 :]
            return torch.zeros(*rows[-1].shape, *of_row, dtype=dtype, device=self._envs.device)
        self._check(key, shape, dtype)
        values, again = self._values[key][rows], self._written_now(key, rows)
        if again is not None and again.any():
            values = _where(again, self._values[key + BEFORE][rows], values)
        return values

    def _write(self, name: str, rows: Rows, shape: tuple[int, ...], values: Tensor) -> None:
        key = self._prefix + name
        if key not in self._values:
            self._values[key] = values.new_zeros(self._num_rows, *shape, device=self._envs.device)
        self._check(key, shape, values.dtype)
        if self._round is not None:
            self._keep_what_was(key, rows)
        self._values[key][rows] = values.detach().to(self._envs.device)

    def _keep_what_was(self, key: str, rows: Rows) -> None:
        """Keep what was written in earlier rounds, before it is overwritten in this one."""
        again, old = self._written_now(key, rows), self._values[key][rows]
        if again is None:
            self._values[key + BEFORE] = torch.zeros_like(self._values[key])
            of_worker = self._values[key].shape[: len(rows)]
            self._values[key + UNTIL] = torch.zeros(of_worker, dtype=torch.int64, device=self._envs.device)
        elif again.any():
            old = _where(again, self._values[key + BEFORE][rows], old)
        self._values[key + BEFORE][rows] = old
        self._values[key + UNTIL][rows] = self._now(rows)

    def _written_now(self, key: str, rows: Rows) -> Tensor | None:
        """Which rows were written in this round; None where there is no round, or none ever was."""
        if self._round is None or key + UNTIL not in self._values:
            return None
        return self._values[key + UNTIL][rows] == self._now(rows)

    def _now(self, rows: Rows) -> Tensor:
        """The round after this one, of each row."""
        assert self._round is not None
        return (self._round + 1).view(-1, *[1] * (len(rows) - 1)).expand(rows[-1].shape)

    def _rows_of(self, envs: Tensor | Iterable[int]) -> Tensor:
        return self._envs[self._index(envs)]

    def _index(self, envs: Tensor | Iterable[int]) -> Tensor:
        index = torch.as_tensor(envs, device=self._envs.device)
        return index if index.dtype == torch.bool else index.long()  # [] has a float type

    def _check(self, key: str, shape: Iterable[int], dtype: torch.dtype) -> None:
        kept = self._values[key]
        if (tuple(shape), dtype) != (kept.shape[1:], kept.dtype):
            row = f"{kept.dtype} of shape {tuple(kept.shape[1:])}"
            got = f"{dtype} of shape {tuple(shape)}"
            raise ValueError(f"memory {key!r} holds {row} for each environment, got {got}")


def _where(condition: Tensor, one: Tensor, other: Tensor) -> Tensor:
    """torch.where with a condition for each row."""
    return torch.where(condition.view(*condition.shape, *[1] * (one.dim() - condition.dim())), one, other)
