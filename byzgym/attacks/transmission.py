"""Attacks on single numbers on their way to the server: the dimensional Byzantine model of Xie et al. 2018.

With ``victims="all"`` they hit what any worker sends, and no worker is Byzantine: tables say so, there is
nobody to detect, and the oracle is the mean of what was sent. With ``victims="byzantine"`` they hit only what
Byzantine workers send.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from byzgym.attacks.base import Attack, AttackContext
from byzgym.attacks.registry import registry
from byzgym.validation import check_choice, check_int, check_real


class _Corruption(Attack):
    def __init__(self, victims: str) -> None:
        self.victims: str = check_choice("victims", victims, ("byzantine", "all"))
        self.scope = "transmission" if victims == "all" else "workers"


@registry.built_in("bit_flip")
class BitFlip(_Corruption):
    """Bit-flip attack of Xie et al. 2018, "Generalized Byzantine-tolerant SGD"
    (https://arxiv.org/abs/1802.10116). It flips bits of numbers in the first ``dimensions`` coordinates.

    The numbers must be float32. With ``victims="all"``, as in section 5.4, one of the n workers is hit in
    each of these coordinates, drawn anew in each round. With ``victims="byzantine"`` all Byzantine workers
    are. Submissions that become infinite or NaN are rejected. Nobody needs to know anything.

    Args:
        dimensions: At least 1. If there are fewer coordinates, all are hit.
        bits: Distinct numbers from 1 (least significant) to 32 (sign); 24 to 31 are the exponent.
        victims: "byzantine" or "all".

    Example:
        >>> gradients = torch.tensor([[[1.0, 2.0, 3.0]]])
        >>> BitFlip(2, bits=[32])(gradients, torch.tensor([[True]]), AttackContext.standalone(gradients))
        tensor([[[-1., -2.,  3.]]])
    """

    def __init__(
        self,
        dimensions: int = 1000,
        bits: Iterable[int] = (22, 30, 31, 32),
        victims: str = "byzantine",
    ) -> None:
        super().__init__(victims)
        self.dimensions = check_int("dimensions", dimensions, low=1)
        self.bits = _check_bits(bits)
        pattern = sum(1 << (bit - 1) for bit in self.bits)
        # The same 32 bits as a signed integer: torch has no bit operations on unsigned ones.
        self._pattern = pattern - (1 << 32) if pattern >= 1 << 31 else pattern

    def corrupt(self, gradients: Tensor, byzantine: Tensor, context: AttackContext) -> Tensor:
        """Return shape [E, n, d]; see `Attack.corrupt`.

        Raises:
            TypeError: If the gradients are not float32.
        """
        if gradients.dtype != torch.float32:
            raise TypeError(f"bit_flip needs gradients of type torch.float32, got {gradients.dtype}")
        sent = gradients[..., : self.dimensions]
        flipped = (sent.view(torch.int32) ^ self._pattern).view(torch.float32)
        if self.victims == "byzantine":
            hit = byzantine[..., None]
        else:
            _, num_workers, dimensions = sent.shape
            victim = context.integers(num_workers, dimensions)  # [E, k]
            hit = victim[:, None] == torch.arange(num_workers, device=sent.device)[:, None]
        submitted = gradients.clone()
        submitted[..., : self.dimensions] = torch.where(hit, flipped, sent)
        return submitted


@registry.built_in("gambler")
class Gambler(_Corruption):
    """Gambler attack of Xie et al. 2018, "Generalized Byzantine-tolerant SGD"
    (https://arxiv.org/abs/1802.10116). It multiplies some of the numbers that one of several servers receives
    by ``factor``.

    The d coordinates are divided evenly among S servers: server s receives those from ``floor(s d / S)`` up
    to, but without, ``floor((s + 1) d / S)``. Section 5.5 has 20 servers, factor -1e20 and a probability of
    0.05 %. Submissions that become infinite are rejected. Nobody needs to know anything.

    Args:
        probability: From 0 to 1, for each number and round.
        factor: Any finite number.
        num_servers: S, at least 1. With more servers than coordinates some receive none.
        victims: "byzantine" or "all".
        server: The attacked server, from 0 to ``num_servers - 1``, in all rounds.

    Example:
        >>> gradients = torch.tensor([[[1.0, 2.0, 3.0, 4.0]]])
        >>> gambler = Gambler(probability=1.0, factor=-10.0, num_servers=2, server=1)
        >>> gambler(gradients, torch.tensor([[False]]), AttackContext.standalone(gradients))
        tensor([[[  1.,   2., -30., -40.]]])
    """

    def __init__(
        self,
        probability: float = 0.0005,
        factor: float = -1e20,
        num_servers: int = 20,
        victims: str = "all",
        server: int = 0,
    ) -> None:
        super().__init__(victims)
        self.probability = check_real("probability", probability, low=0, high=1)
        self.factor = check_real("factor", factor)
        self.num_servers = check_int("num_servers", num_servers, low=1)
        self.server = check_int("server", server, low=0, high=self.num_servers - 1)

    def corrupt(self, gradients: Tensor, byzantine: Tensor, context: AttackContext) -> Tensor:
        """Return shape [E, n, d]; see `Attack.corrupt`."""
        _, num_workers, dimension = gradients.shape
        start, end = (server * dimension // self.num_servers for server in (self.server, self.server + 1))
        received = gradients[..., start:end]
        hit = context.uniform(num_workers, end - start) < self.probability
        if self.victims == "byzantine":
            hit &= byzantine[..., None]
        submitted = gradients.clone()
        submitted[..., start:end] = torch.where(hit, received * self.factor, received)
        return submitted


def _check_bits(bits: Iterable[int]) -> tuple[int, ...]:
    if isinstance(bits, str) or not isinstance(bits, Iterable):
        raise ValueError(f"bits must be a sequence of integers from 1 to 32, got {bits!r}")
    checked = tuple(check_int("bits (each)", bit, low=1, high=32) for bit in bits)
    if not checked or len(set(checked)) != len(checked):
        raise ValueError(f"bits must be at least one and distinct, got {checked!r}")
    return checked
