"""What the set aggregator sees of each worker: numbers without a scale, for any model and any n."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from byzgym.aggregation import ServerView
from byzgym.aggregation.trust import pass_on
from byzgym.numerics.distances import unit_rows
from byzgym.numerics.sketch import Sketch

State = dict[str, Tensor]
"""What is remembered: names -> tensors [E, ...], all zero when an episode begins."""

FAST, SLOW = 0.3, 0.07
"""Weights of a round in the momenta of submissions and updates."""
LONG, LONGER = 0.1, 0.03
"""Weights of a round in the running means: about ten and about 33 rounds."""
LIMIT = 5.0
"""All features are clamped to [-LIMIT, LIMIT]."""
REFERENCES, ROWS, RANKED, TRACKED = 7, 3, 8, 6
PER_WORKER = ROWS * REFERENCES + 19 + RANKED + 2 * TRACKED + 2 + 3
PER_RUN = 8
EVIDENCE = 6
HIDDEN = 32
TINY = math.exp(-60)
"""Norms below this count as this."""


@dataclass
class Features:
    """The features of one round."""

    workers: Tensor  # [E, n, PER_WORKER]
    run: Tensor  # [E, PER_RUN]
    pairs: Tensor  # [E, ROWS, n, n], cosines between submissions, and between their momenta
    evidence: Tensor  # [E, n, EVIDENCE], the features that say most by themselves, for a short way to credits
    log_norms: Tensor  # [E, n], of the submissions
    log_server_norm: Tensor  # [E], of the QV gradient
    rejected: Tensor  # [E, n] bool


def shapes(num_workers: int, dimension: int) -> dict[str, tuple[int, ...]]:
    """The shape of each part of the state, without E; ``dimension`` is that of sketched rows."""
    n, k = num_workers, dimension
    return {
        "rows": (ROWS, n, k), "update_fast": (k,), "update_slow": (k,), "server": (k,),
        "long": (n, TRACKED), "longer": (n, TRACKED), "credits": (n,), "mean_credits": (n,),
        "norm": (), "loss": (), "hidden": (n, HIDDEN), "age": (),
    }  # fmt: skip


def start(num_envs: int, num_workers: int, dimension: int, like: Tensor) -> State:
    """The state when episodes begin."""
    return {name: like.new_zeros(num_envs, *shape) for name, shape in shapes(num_workers, dimension).items()}


@torch.no_grad()
def observe(view: ServerView, sketch: Sketch, state: State) -> tuple[Features, State]:
    """The features of this round, and the state with this round in it (but for hidden and credits)."""
    n = view.num_workers
    age = state["age"] + 1  # [E]
    submissions = sketch(view.gradients)
    norms = torch.linalg.vector_norm(submissions, dim=2, dtype=torch.float64).clamp(min=TINY)  # [E, n]
    log_norms = norms.log().to(submissions.dtype)
    own = sketch(view.qv_sample_gradients)  # [E, q, k]
    contrasts = torch.zeros_like(own) if view.qv_contrasts is None else sketch(view.qv_contrasts)
    server = unit_rows(own.mean(1))
    last = unit_rows(sketch(view.previous_update[:, None])[:, 0])

    new = dict(state, age=age)
    rows = torch.empty_like(state["rows"])  # [E, ROWS, n, k]: unit submissions, and two momenta of these
    torch.mul(submissions, (1 / norms).to(submissions.dtype)[..., None], out=rows[:, 0])
    torch.lerp(state["rows"][:, 1], rows[:, 0], FAST, out=rows[:, 1])
    torch.lerp(state["rows"][:, 2], rows[:, 0], SLOW, out=rows[:, 2])
    new["rows"] = rows
    new["update_fast"] = (1 - FAST) * state["update_fast"] + FAST * last
    new["update_slow"] = (1 - SLOW) * state["update_slow"] + SLOW * last
    new["server"] = (1 - LONG) * state["server"] + LONG * server

    references = torch.stack(
        [
            server,
            unit_rows(unit_rows(own).mean(1)),
            unit_rows(new["server"]),
            unit_rows(new["update_fast"]),
            unit_rows(new["update_slow"]),
            unit_rows(contrasts.mean(1)),
            unit_rows(unit_rows(contrasts).mean(1)),
        ],
        1,
    )  # [E, REFERENCES, k]
    pairs = rows @ rows.mT  # [E, ROWS, n, n]
    inverse = pairs.diagonal(dim1=2, dim2=3).clamp(min=1e-12).rsqrt()  # [E, ROWS, n], of the norms
    pairs = pairs * inverse[..., None] * inverse[..., None, :]
    others = torch.cat([references, own, contrasts], 1)  # [E, m, k]
    products = (rows.flatten(1, 2) @ others.mT).view(*inverse.shape, -1) * inverse[..., None]
    cosines, on_own, on_contrasts = products.split([REFERENCES, own.shape[1], own.shape[1]], 3)
    agreement, contrast = cosines[..., 0], cosines[..., 5]  # [E, ROWS, n]
    passed, passed_contrast = pass_on(agreement, pairs), pass_on(contrast, pairs)
    sure = _t_statistic(on_own[:, 0])
    alike = [_others(pairs[:, row], state["mean_credits"]) for row in (0, 2)]  # each [E, n, 3]

    tracked = torch.stack(
        [passed[:, 0], passed_contrast[:, 0], agreement[:, 0], contrast[:, 0], sure, alike[0][..., 0]], 2
    )
    new["long"] = (1 - LONG) * state["long"] + LONG * tracked
    new["longer"] = (1 - LONGER) * state["longer"] + LONGER * tracked
    long, longer = _corrected(new["long"], LONG, age), _corrected(new["longer"], LONGER, age)

    server_norm = torch.linalg.vector_norm(own.mean(1), dim=1, dtype=torch.float64)
    log_server_norm = server_norm.clamp(min=TINY).log().to(own.dtype)
    median = log_norms.masked_fill(view.rejected, torch.nan).nanmedian(1).values.nan_to_num()
    mean_norm = torch.where(state["age"] > 0, state["norm"], median)
    new["norm"] = mean_norm + LONG * (median - mean_norm)
    lengths = torch.stack([log_norms - other[:, None] for other in (median, log_server_norm, mean_norm)], 2)
    log_loss = view.qv_value.clamp(min=1e-6).log()
    log_step = view.learning_rate.clamp(min=1e-30).log() + log_server_norm - log_loss  # [E]
    decrease = (log_norms + log_step[:, None]).clamp(max=LIMIT).exp() * agreement[:, 0]
    consistency = (rows[:, :1] * rows[:, 1:]).sum(3) * inverse[:, :1] * inverse[:, 1:]  # [E, 2, n]
    ranked = torch.stack(
        [
            agreement[:, 0],
            agreement[:, 2],
            contrast[:, 2],
            alike[1][..., 0],
            passed[:, 0],
            lengths[..., 0],
            contrast[:, 0],
            passed_contrast[:, 0],
        ],
        2,
    )
    workers = torch.cat(
        [
            cosines.transpose(1, 2).flatten(2),
            torch.stack([sure, *map(_t_statistic, (on_own[:, 2], on_contrasts[:, 0], on_contrasts[:, 2]))], 2)
            / 3,
            decrease[..., None],
            consistency.mT,
            *alike,
            passed.mT,
            passed_contrast.mT,
            _ranks(ranked),
            long,
            longer,
            n * state["credits"][..., None],
            n * _corrected(state["mean_credits"], LONG, state["age"].clamp(min=1))[..., None],
            lengths,
        ],
        2,
    )
    spread = (lengths[..., 0].clamp(-LIMIT, LIMIT)).std(1, correction=0)
    run = torch.stack(
        [
            log_loss,
            torch.where(state["age"] > 0, log_loss - state["loss"], 0) * 3,
            age.rsqrt(),
            torch.full_like(log_loss, math.log(n)),
            (references[:, 0] * references[:, 4]).sum(1),
            (references[:, 0] * references[:, 2]).sum(1),
            spread,
            contrasts.flatten(1).any(1).to(log_loss.dtype),
        ],
        1,
    )
    new["loss"] = log_loss
    features = Features(
        workers=workers.clamp(-LIMIT, LIMIT),
        run=run.clamp(-LIMIT, LIMIT),
        pairs=pairs,
        evidence=torch.stack(
            [passed[:, 0], contrast[:, 0], long[..., 0], long[..., 3], longer[..., 0], longer[..., 3]], 2
        ),
        log_norms=log_norms,
        log_server_norm=log_server_norm,
        rejected=view.rejected,
    )
    return features, new


def remember(state: State, credits: Tensor, hidden: Tensor) -> State:
    """The state with what the network has decided, shapes [E, n] and [E, n, HIDDEN]."""
    mean = torch.lerp(state["mean_credits"], credits.detach(), LONG)
    return dict(state, credits=credits.detach(), mean_credits=mean, hidden=hidden)


def _corrected(mean: Tensor, rate: float, age: Tensor) -> Tensor:
    return mean / (1 - (1 - rate) ** age).view(-1, *[1] * (mean.dim() - 1))


def _t_statistic(products: Tensor) -> Tensor:
    """Mean over standard error [E, n] of products [E, n, q] with q samples: how sure is the sign?"""
    if products.shape[2] == 1:
        return torch.zeros_like(products[..., 0])
    error = products.std(2) / math.sqrt(products.shape[2])
    return products.mean(2) / error.clamp(min=1e-12)


def _others(similarity: Tensor, credits: Tensor) -> Tensor:
    """Mean, largest and credit-weighted similarity [E, n, n] with the others, shape [E, n, 3]."""
    n = similarity.shape[1]
    own = torch.eye(n, dtype=torch.bool, device=similarity.device)
    others = similarity.masked_fill(own, 0)
    weighted = (others @ credits[..., None])[..., 0] / credits.sum(1, keepdim=True).clamp(min=1e-6)
    largest = similarity.masked_fill(own, -1).amax(2)
    return torch.stack([others.sum(2) / max(1, n - 1), largest, weighted], 2)


def _ranks(values: Tensor) -> Tensor:
    """Ranks [E, n, m] of values among the workers, from -1 to 1."""
    n = values.shape[1]
    return (values[:, :, None] - values[:, None]).sign().sum(2) / max(1, n - 1)
