"""What attacks and rules keep from round to round."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class Memory:
    def __init__(self, num_envs: int, device: Any = "cpu") -> None:
        self.num_envs, self.device = num_envs, torch.device(device)
        self._values: dict[str, Tensor] = {}
        self._envs: Tensor | None = None

    def read(self, name: str, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        if name not in self._values:
            count = self.num_envs if self._envs is None else len(self._envs)
            return torch.zeros(count, *shape, dtype=dtype, device=self.device)
        v = self._values[name]
        return v.clone() if self._envs is None else v[self._envs]

    def write(self, name: str, values: Tensor) -> None:
        values = values.detach().clone()
        if self._envs is None:
            self._values[name] = values
            return
        if name not in self._values:
            self._values[name] = values.new_zeros(self.num_envs, *values.shape[1:])
        self._values[name][self._envs] = values

    def of(self, envs: Tensor) -> Memory:
        part = Memory(self.num_envs, self.device)
        part._values = self._values
        part._envs = envs if self._envs is None else self._envs[envs]
        return part

    def reset(self, envs: Any = None) -> None:
        if envs is None:
            self._values.clear()
        else:
            for v in self._values.values():
                v[envs] = 0

    def state(self) -> dict[str, Tensor]:
        return {k: v.clone() for k, v in self._values.items()}

    def load(self, state: dict[str, Tensor]) -> None:
        self._values.clear()
        self._values.update({k: v.clone() for k, v in state.items()})
