"""Attacks on single numbers on their way to the server: Xie's dimensional Byzantine model.

With ``victims="all"`` they hit what any worker sends, Byzantine or not (so their scope is "transmission" and
the Byzantine mask plays no part); with ``victims="byzantine"`` only what Byzantine workers send.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from byzgym.attacks.base import Attack, AttackContext
from byzgym.attacks.registry import registry
from byzgym.validation import check_choice, check_int, check_real

VICTIMS = ("byzantine", "all")


class _Corruption(Attack):
    """Changes some numbers and leaves the others.

    Args:
        victims: "byzantine" or "all".
    """

    def __init__(self, victims: str) -> None:
        self.victims: str = check_choice("victims", victims, VICTIMS)
        self.scope = "transmission" if victims == "all" else "workers"


@registry.built_in("bit_flip")
class BitFlip(_Corruption):
    """Flips bits of the float32 numbers sent for the first ``dimensions`` coordinates.

    With ``victims="all"``, for each of these coordinates the number of one of the n workers, drawn anew in
    each round: Xie et al. 2018, "Generalized Byzantine-tolerant SGD", section 5.4. With
    ``victims="byzantine"``, the numbers of all Byzantine workers. A flipped exponent can give an infinite
    number or NaN; the server rejects such a submission.

    Args:
        dimensions: At least 1; where there are fewer coordinates, all of them.
        bits: Distinct bit numbers from 1 (least significant) to 32 (sign); 24 to 31 are the exponent.
        victims: "byzantine" or "all".
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
        # The same 32 bits as a signed integer, because torch has no bit operations on unsigned ones.
        self._pattern = pattern - (1 << 32) if pattern >= 1 << 31 else pattern

    def corrupt(self, gradients: Tensor, byzantine: Tensor, context: AttackContext) -> Tensor:
        """See `Attack.corrupt`.

        Raises:
            TypeError: If the gradients are not float32.
        """
        if gradients.dtype != torch.float32:
            raise TypeError(f"bit_flip needs gradients of type torch.float32, got {gradients.dtype}")
        sent = gradients[..., : self.dimensions]
        flipped = (sent.view(torch.int32) ^ self._pattern).view(torch.float32)
        submitted = gradients.clone()
        submitted[..., : self.dimensions] = torch.where(self._hit(sent, byzantine, context), flipped, sent)
        return submitted

    def _hit(self, sent: Tensor, byzantine: Tensor, context: AttackContext) -> Tensor:
        """Which numbers are hit, bool, broadcasting to [E, n, k]."""
        if self.victims == "byzantine":
            return byzantine[..., None]
        _, num_workers, dimensions = sent.shape
        victim = context.integers(num_workers, dimensions)
        return victim[:, None] == torch.arange(num_workers, device=sent.device)[:, None]


@registry.built_in("gambler")
class Gambler(_Corruption):
    """Multiplies each number that one server of several receives by ``factor`` with a small probability.

    The d coordinates are divided evenly among the servers: server s has those from ``floor(s d / S)`` up to,
    and without, ``floor((s + 1) d / S)``. Xie et al. 2018, "Generalized Byzantine-tolerant SGD", section 5.5,
    has 20 servers, factor -1e20 and 0.05 %. A product beyond the largest float becomes infinite, and such a
    submission is rejected by the server.

    Args:
        probability: From 0 to 1, for each number and round.
        factor: Any finite number.
        num_servers: S, at least 1. With more servers than coordinates some servers have none.
        victims: "byzantine" or "all".
        server: The server attacked, from 0 to ``num_servers - 1``, in all rounds.
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
        """See `Attack.corrupt`."""
        _, num_workers, dimension = gradients.shape
        block = slice(
            self.server * dimension // self.num_servers, (self.server + 1) * dimension // self.num_servers
        )
        received = gradients[..., block]
        hit = context.uniform(num_workers, received.shape[-1]) < self.probability
        if self.victims == "byzantine":
            hit &= byzantine[..., None]
        submitted = gradients.clone()
        submitted[..., block] = torch.where(hit, received * self.factor, received)
        return submitted


def _check_bits(bits: Iterable[int]) -> tuple[int, ...]:
    """Return the bit numbers as a tuple.

    Raises:
        ValueError: If there are none, if one is not from 1 to 32, or if one is given twice.
    """
    if isinstance(bits, str) or not isinstance(bits, Iterable):
        raise ValueError(f"bits must be a sequence of integers from 1 to 32, got {bits!r}")
    checked = tuple(check_int("bits (each)", bit, low=1, high=32) for bit in bits)
    if not checked or len(set(checked)) != len(checked):
        raise ValueError(f"bits must be at least one and distinct, got {checked!r}")
    return checked
