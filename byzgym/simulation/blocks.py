"""The parameters divided among several servers, each of which aggregates its own block."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor


class Blocks:
    """d parameters divided evenly among S servers: server s has floor(s d / S) up to floor((s + 1) d / S).

    What all servers have together, [E, ..., d], becomes [E S, ..., w], with a row for each server of the
    first environment, then of the second, and so on. w is the length of the longest block; a block that is
    one shorter ends in a zero.

    Source: Xie, Koyejo and Gupta 2018, "Generalized Byzantine-tolerant SGD"
    (https://arxiv.org/abs/1802.10116), section 5.5.

    Example:
        >>> blocks = Blocks(5, num_servers=2)
        >>> parts = blocks.split(torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0]]))
        >>> parts
        tensor([[1., 2., 0.],
                [3., 4., 5.]])
        >>> blocks.join(parts)
        tensor([[1., 2., 3., 4., 5.]])
    """

    def __init__(self, num_parameters: int, num_servers: int, device: torch.device | str = "cpu") -> None:
        self.num_servers = num_servers
        self.width = -(-num_parameters // num_servers)
        edges = torch.arange(num_servers + 1, device=device) * num_parameters // num_servers
        places = edges[:-1, None] + torch.arange(self.width, device=device)  # [S, w]
        self._filled = places < edges[1:, None]  # [S, w]
        self._places = places.clamp(max=num_parameters - 1)

    def split(self, values: Tensor) -> Tensor:
        """The blocks [E S, ..., w] of values [E, ..., d], in a tensor of their own."""
        blocks = values[..., self._places].masked_fill(~self._filled, 0)  # [E, ..., S, w]
        return blocks.movedim(-2, 1).flatten(0, 1)

    def join(self, blocks: Tensor) -> Tensor:
        """The values [E, ..., d] of blocks [E S, ..., w]."""
        return blocks.unflatten(0, (-1, self.num_servers)).movedim(1, -2)[..., self._filled]

    def repeat(self, values: Tensor) -> Tensor:
        """What all servers of an environment share: [E, ...] becomes [E S, ...]."""
        return values.repeat_interleave(self.num_servers, 0)

    def rows(self, envs: Tensor) -> Tensor:
        """The numbers [k S] of the servers of environments [k]."""
        servers = torch.arange(self.num_servers, device=envs.device)
        return (envs[:, None] * self.num_servers + servers).flatten()

    def known(self, whole: Mapping[str, Any]) -> dict[str, Any]:
        """What each server knows: the fields of a `ServerView` of E S runs, from those that say it for E.

        The QV loss of a server is the model's at the present parameters with its own block replaced.
        """
        theta = whole["theta"]
        shared = {name: self.repeat(whole[name]) for name in ("learning_rate", "round", "seed")}
        split = {name: self.split(whole[name]) for name in ("theta", "previous_update")}
        functions = ("qv_loss", "qv_loss_and_gradient", "qv_per_sample")
        return shared | split | {name: partial(self._of_each, whole[name], theta) for name in functions}

    def _of_each(self, function: Callable[[Tensor], Any], theta: Tensor, blocks: Tensor) -> Any:
        """Call a function of parameters [E, d] for each server with its own of the blocks [E S, w]."""
        apart = blocks.unflatten(0, (-1, self.num_servers))  # [E, S, w]
        if not blocks.requires_grad and torch.equal(blocks, self.split(theta)):
            results = [function(theta)] * self.num_servers
        else:
            results = [
                function(theta.index_copy(1, places[filled], block[:, filled]))
                for places, filled, block in zip(self._places, self._filled, apart.unbind(1), strict=True)
            ]
        if isinstance(results[0], tuple):
            return tuple(self._own(part) for part in zip(*results, strict=True))
        return self._own(results)

    def _own(self, results: Any) -> Tensor | None:
        """Each server's part of what its call gave, [E] or [E, ..., d]: together [E S] or [E S, ..., w]."""
        if results[0] is None:
            return None
        if results[0].dim() > 1:
            pairs = zip(results, self._places, self._filled, strict=True)
            results = [values[..., places] * filled for values, places, filled in pairs]
        return torch.stack(list(results), 1).flatten(0, 1)


class BlockRule:
    """A rule that each server applies to its own block of submissions [..., n, d]."""

    def __init__(self, rule: Callable[[Tensor], Tensor], blocks: Blocks) -> None:
        self.rule, self._blocks = rule, blocks

    def __call__(self, gradients: Tensor) -> Tensor:
        """Aggregate to [..., d]."""
        runs = gradients.reshape(-1, *gradients.shape[-2:])
        update = self._blocks.join(self.rule(self._blocks.split(runs)))
        return update.reshape(*gradients.shape[:-2], -1)
