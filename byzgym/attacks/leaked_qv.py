"""The adaptive attacks of GAA: workers that know something of the server's quasi-validation (QV) set.

They lower the loss on what the server looks at and raise it elsewhere, so that their gradients look helpful.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from byzgym.attacks.base import AttackContext, DataPoisoning
from byzgym.attacks.registry import registry
from byzgym.validation import check_choice, check_int

LOSSES = ("1", "2", "2n", "3", "4")
LEAKS = {"labels": "qv_labels", "distribution": "qv_distribution", "samples": "qv"}
"""How much is known of the QV set, and the knowledge that an attack with it declares."""


@registry.built_in("leaked_qv")
class LeakedQV(DataPoisoning):
    """Adaptive attack of Pan et al. 2020, "Justinian's GAAvernor"
    (https://www.usenix.org/conference/usenixsecurity20/presentation/pan). Byzantine workers know the server's
    QV set in part and submit the gradient of a crafted loss.

    The paper's adversary has "partial knowledge" of the QV set. The levels of it and the losses are those of
    the reconstruction by nicehiro (https://github.com/nicehiro/GAA-Consensus), which executes them for labels
    only. With L2 for the loss on what the server looks at, and L1 for that on the rest of a worker's batch:

    - leak "labels": they know which labels occur in the QV set. L2 is the mean loss on the worker's samples
      with such a label, L1 that on the others; without any it is zero.
    - leak "distribution": they can draw samples from where the QV set comes from, but do not know those that
      the server has. L2 is the mean loss on new samples from there, L1 that on the worker's own. (With
      ``qv_source="train"`` some of the new ones may be the server's by chance.)
    - leak "samples": they know the exact QV samples. L2 is the mean loss on these, L1 that on the worker's
      own.

    For the last two, such samples take the place of the worker's own in up to half of the batch. Where they
    are more than that, some are drawn in each round. In iteration t = 1, 2, ... of an episode, and with the
    ``period`` P, the losses are:

    - "1": ``10 L2 - L1``.
    - "2": ``L2`` up to iteration P, then ``2 L2 - L1``; "2n": the same with 4 P.
    - "3": ``L2``, but ``-L1`` in iterations with ``t mod P`` of 0.996 P and more.
    - "4": ``L2``.

    The attackers know their own data, and of the QV samples what ``leak`` says.

    Args:
        leak: "labels", "distribution" or "samples".
        loss: One of these names.
        period: Iterations, at least 1; 1000 in the reconstruction.

    Example:
        >>> attack = LeakedQV(leak="labels")
        >>> context = AttackContext.standalone(torch.zeros(1, 1, 5), num_classes=3)
        >>> context.qv_labels = torch.tensor([[0, 0, 1]])
        >>> x, y = torch.zeros(1, 1, 4, 8), torch.tensor([[[0, 1, 2, 2]]])
        >>> attack.poison(x, y, torch.tensor([[True]]), context)[2] / 4  # the factors of each sample's loss
        tensor([[[ 5.0000,  5.0000, -0.5000, -0.5000]]])
    """

    def __init__(self, leak: str = "samples", loss: str | int = "1", period: int = 1000) -> None:
        self.leak: str = check_choice("leak", leak, LEAKS)
        # At a command line, loss=1 is a number.
        self.loss: str = check_choice("loss", str(loss) if isinstance(loss, int) else loss, LOSSES)
        self.period = check_int("period", period, low=1)
        self.knowledge = frozenset({LEAKS[leak]})

    def poison(
        self, x: Tensor, y: Tensor, byzantine: Tensor, context: AttackContext
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return inputs [E, n, B, ...], labels [E, n, B] and the weights [E, n, B] of their losses.

        Raises:
            ValueError: If the context does not hold what has leaked.
        """
        if self.leak == "labels":
            labels = _told(context.qv_labels, "qv_labels")
            seen = torch.zeros(len(y), context.num_classes, dtype=torch.bool, device=y.device)
            seen.scatter_(1, labels, True)
            liked = seen.gather(1, y.flatten(1)).view_as(y)
        else:
            name = LEAKS[self.leak]
            leaked_x, leaked_y = _told(getattr(context, name), name)
            x, y, count = _mixed(x, y, leaked_x, leaked_y, context)
            liked = torch.zeros_like(y, dtype=torch.bool)
            liked[..., :count] = True
        factors = self._factors(context.round + 1).to(x.dtype)[..., None, None]  # [2, E, 1, 1]
        return x, y, factors[0] * _mean_over(liked, x) + factors[1] * _mean_over(~liked, x)

    def _factors(self, iteration: Tensor) -> Tensor:
        """The factors of L2 and of L1 [2, E] in an iteration [E]."""
        one, period = torch.ones_like(iteration), self.period
        if self.loss == "1":
            return torch.stack([10 * one, -one])
        if self.loss == "3":
            quiet = iteration % period < 0.996 * period
            return torch.stack([quiet.long(), -(~quiet).long()])
        if self.loss == "4":
            return torch.stack([one, 0 * one])
        harmful = (iteration > (period if self.loss == "2" else 4 * period)).long()
        return torch.stack([one + harmful, -harmful])


@registry.built_in("missing_label")
class MissingLabel(LeakedQV):
    """Missing-label attack of the reconstruction of GAA by nicehiro
    (https://github.com/nicehiro/GAA-Consensus). Byzantine workers know which labels occur in the server's QV
    set, and raise the loss on samples with the other labels.

    It is ``leaked_qv`` with the leak "labels", which also says what the losses are. It needs labels that are
    missing in the QV set: with ten samples of ten classes there usually are some. The attackers know their
    own data, and the labels of the QV samples.

    Args:
        loss: "1", "2", "2n", "3" or "4".
        period: Iterations, at least 1; 1000 in the reconstruction.

    Example:
        >>> MissingLabel().knowledge
        frozenset({'qv_labels'})
    """

    def __init__(self, loss: str | int = "1", period: int = 1000) -> None:
        super().__init__("labels", loss, period)


def _told(known: Any, name: str) -> Any:
    if known is None:
        raise ValueError(f"the context must hold {name}, which the attack knows, got None")
    return known


def _mixed(
    x: Tensor, y: Tensor, leaked_x: Tensor, leaked_y: Tensor, context: AttackContext
) -> tuple[Tensor, Tensor, int]:
    """Batches x [E, n, B, ...], y [E, n, B] that begin with leaked samples, and with how many of them."""
    num_leaked = leaked_y.shape[1]
    count = min(num_leaked, max(1, x.shape[2] // 2))
    if count < num_leaked:
        chosen = context.uniform(num_leaked).argsort(1)[:, :count]  # [E, count]
        env = torch.arange(len(chosen), device=chosen.device)[:, None]
        leaked_x, leaked_y = leaked_x[env, chosen], leaked_y[env, chosen]
    x, y = x.clone(), y.clone()
    x[:, :, :count] = leaked_x[:, None].to(x.dtype)
    y[:, :, :count] = leaked_y[:, None]
    return x, y, count


def _mean_over(chosen: Tensor, like: Tensor) -> Tensor:
    """Weights [E, n, B] that make of the mean over a batch that over the chosen samples; zero without any."""
    count = chosen.sum(-1, keepdim=True).clamp_min(1)
    return chosen.to(like.dtype) * chosen.shape[-1] / count
