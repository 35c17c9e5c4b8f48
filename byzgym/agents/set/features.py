"""What the set aggregator sees of each worker: numbers without a scale, for any model and any n."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from byzgym.aggregation import ServerView
from byzgym.aggregation.evidence import pass_on
from byzgym.numerics.distances import row_norms, unit_rows
from byzgym.numerics.sketch import Sketch

State = dict[str, Tensor]
"""What is remembered: names -> tensors [E, ...], all zero when an episode begins."""

FAST, SLOW = 0.3, 0.07
"""Weights of a round in the momenta of submissions and updates."""
LONG, LONGER = 0.1, 0.03
"""Weights of a round in the running means: about ten and about 33 rounds."""
LIMIT = 5.0
"""All features are clamped to [-LIMIT, LIMIT]."""
ROWS = ("submission", "fast", "slow")
"""What is compared of a worker, along axes marked ROWS: its unit submission, and two momenta of these."""
REFERENCES = ("qv", "qv unit", "qv mean", "update fast", "update slow", "contrast", "contrast unit")
"""What it is compared with: the QV gradient, the mean of the samples' unit gradients, the momentum of the QV
gradient, two momenta of accepted updates, the mean label contrast, the mean of unit label contrasts."""
TRACKED = ("passed qv", "passed contrast", "qv", "contrast", "t qv", "t contrast", "alike")
"""What running means are kept of."""
COLUMNS = (
    *(f"cosine {row} {reference}" for row in ROWS for reference in REFERENCES),
    *(f"t {row} {of}" for of in ("qv", "contrast") for row in ("submission", "slow")),
    "decrease",  # of the QV loss, in first order, if this submission were the update
    *(f"consistency {row}" for row in ROWS[1:]),
    *(f"{how} alike {row}" for row in ("submission", "slow") for how in ("mean", "largest", "credited")),
    *(f"passed {row} {of}" for of in ("qv", "contrast") for row in ROWS),
    *("rank submission qv", "rank slow qv", "rank slow contrast", "rank slow alike"),
    *("rank passed qv", "rank length", "rank submission contrast", "rank passed contrast"),
    *(f"mean {length} {name}" for length in ("long", "longer") for name in TRACKED),
    *(f"relative {length} {name}" for length in ("long", "longer") for name in TRACKED),
    *("last credits", "mean credits"),
    *(f"length over {reference}" for reference in ("median", "qv", "usual")),
)
"""The features of a worker."""
PER_RUN = 11
EVIDENCE = ("t slow qv", "t slow contrast", "mean long t qv", "mean long t contrast")
"""The columns that say most by themselves, for a short way to credits: t-statistics say how far agreement
with the QV samples can be relied on."""
HIDDEN = 48
TINY = math.exp(-60)
"""Norms below this count as this."""
FAR = math.log(1000)
"""Submissions get no credit if they are longer by this logarithm than the longest QV gradient so far."""


@dataclass
class Features:
    """The features of one round."""

    workers: Tensor  # [E, n, COLUMNS]
    run: Tensor  # [E, PER_RUN]
    pairs: Tensor  # [E, ROWS, n, n], cosines between submissions, and between their momenta
    evidence: Tensor  # [E, n, EVIDENCE], from -1 to 1
    log_norms: Tensor  # [E, n], of the submissions
    log_server_norm: Tensor  # [E], of the QV gradient
    rejected: Tensor  # [E, n] bool, who gets no credit: rejected by the server, or far too long


def shapes(num_workers: int, dimension: int) -> dict[str, tuple[int, ...]]:
    """The shape of each part of the state, without E; ``dimension`` is that of sketches."""
    n, k = num_workers, dimension + num_workers
    return {
        "rows": (len(ROWS), n, k), "update_fast": (k,), "update_slow": (k,), "server": (k,),
        "long": (n, len(TRACKED)), "longer": (n, len(TRACKED)), "credits": (n,), "mean_credits": (n,),
        "norm": (), "loss": (), "lowest": (), "peak": (), "hidden": (n, HIDDEN), "age": (), "ages": (n,),
    }  # fmt: skip


def start(num_envs: int, num_workers: int, dimension: int, like: Tensor) -> State:
    """The state when episodes begin."""
    return {name: like.new_zeros(num_envs, *shape) for name, shape in shapes(num_workers, dimension).items()}


@torch.no_grad()
def observe(view: ServerView, sketch: Sketch, state: State) -> tuple[Features, State]:
    """The features of this round, and the state with this round in it (but for hidden and credits)."""
    new = dict(state, age=state["age"] + 1, ages=state["ages"] + 1)  # rounds of the run, and of each worker
    num_workers = view.num_workers
    samples = _single(_padded(sketch(view.qv_sample_gradients), num_workers))  # [E, q, k + n]
    contrasts = torch.zeros_like(samples)
    if view.qv_contrasts is not None:
        contrasts = _single(_padded(sketch(view.qv_contrasts), num_workers))
    norms = row_norms(view.gradients).clamp(min=TINY)  # [E, n], double
    new["rows"] = _momenta(_unit(sketch(view.gradients), norms), state["rows"])
    new |= _followed(view, sketch, samples, state)
    seen = _compare(new, samples, contrasts)
    tracked = _tracked(seen, state["mean_credits"])
    new["long"] = torch.lerp(state["long"], tracked, LONG)
    new["longer"] = torch.lerp(state["longer"], tracked, LONGER)
    long, longer = (
        _corrected(new[name], rate, new["ages"]) for name, rate in (("long", LONG), ("longer", LONGER))
    )

    log_norms = norms.log().float()
    server_norm = torch.linalg.vector_norm(samples.mean(1), dim=1, dtype=torch.float64)
    log_server_norm = server_norm.clamp(min=TINY).log().to(samples.dtype)
    new["peak"] = torch.where(state["age"] > 0, state["peak"], log_server_norm).maximum(log_server_norm)
    # Where a model has fitted the QV samples from the start, the shortest submission is the measure.
    usual = torch.maximum(new["peak"], log_norms.amin(1))
    rejected = view.rejected | (log_norms > usual[:, None] + FAR)
    lengths, new["norm"] = _lengths(rejected, log_norms, log_server_norm, state)
    new["loss"] = _single(view.qv_value).clamp(min=1e-6).log()
    new["lowest"] = torch.where(state["age"] > 0, state["lowest"], new["loss"]).minimum(new["loss"])
    log_step = _single(view.learning_rate).clamp(min=1e-30).log() + log_server_norm - new["loss"]  # [E]
    decrease = (log_norms + log_step[:, None]).clamp(max=LIMIT).exp() * seen.agreement[:, 0]
    workers = torch.cat(
        [
            seen.cosines.transpose(1, 2).flatten(2),
            seen.certainty,
            decrease[..., None],
            seen.consistency.mT,
            *(_others(seen.pairs[:, row], state["mean_credits"]) for row in (0, 2)),
            seen.passed.mT,
            seen.passed_contrast.mT,
            _ranks(_ranked(seen, lengths)),
            long,
            longer,
            _relative(long),
            _relative(longer),
            _relative_credits(state),
            lengths,
        ],
        2,
    )
    t_long = long[..., [4, 5]]
    evidence = torch.cat([seen.certainty[..., [1, 3]], t_long], 2)
    features = Features(
        workers=workers.clamp(-LIMIT, LIMIT),
        run=_run(new, state, seen, lengths, contrasts, t_long).clamp(-LIMIT, LIMIT),
        pairs=seen.pairs,
        evidence=torch.tanh(1.5 * evidence),  # more than clear is not better: the sure share their credit
        log_norms=log_norms,
        log_server_norm=log_server_norm,
        rejected=rejected,
    )
    return features, new


@dataclass
class Comparison:
    """How submissions (row 0) and their momenta (rows 1 and 2) agree with each other and with references."""

    pairs: Tensor  # [E, ROWS, n, n], cosines
    cosines: Tensor  # [E, ROWS, n, REFERENCES]
    references: Tensor  # [E, REFERENCES, k + n], unit rows
    certainty: Tensor  # [E, n, 4], t-statistics over the QV samples
    consistency: Tensor  # [E, 2, n], cosines of submissions with the worker's own momenta

    def __post_init__(self) -> None:
        self.agreement = self.cosines[..., 0]  # [E, ROWS, n], with the QV gradient
        self.contrast = self.cosines[..., 5]  # [E, ROWS, n], with the mean label contrast
        self.passed = pass_on(self.agreement, self.pairs)
        self.passed_contrast = pass_on(self.contrast, self.pairs)


def _single(values: Tensor) -> Tensor:
    """Values in single precision, as the network takes them; what is too large for it becomes its largest."""
    return values.clamp(-3e38, 3e38).float() if values.dtype == torch.float64 else values.float()


def _padded(sketches: Tensor, num_workers: int) -> Tensor:
    """Sketches [..., k] with a zero for each worker behind them, [..., k + n]."""
    return F.pad(sketches, (0, num_workers))


def _unit(sketches: Tensor, norms: Tensor) -> Tensor:
    """Unit rows [E, n, k + n] from sketches [E, n, k] of submissions with norms [E, n].

    A sketch cannot see all of a submission. What it does not see is put into a place of the worker's own, so
    that it counts as unlike everything else: nobody can hide a long row behind a short sketch.
    """
    unit = (sketches.double() / norms[..., None]).nan_to_num(0, 0, 0)  # a sum of large numbers may overflow
    unseen = (1 - unit.square().sum(2)).clamp(min=0).sqrt()  # [E, n]
    return torch.cat([unit, torch.diag_embed(unseen)], 2).float()


def _momenta(unit: Tensor, before: Tensor) -> Tensor:
    """Unit submissions, and two momenta of these: [E, ROWS, n, k + n]."""
    rows = torch.empty_like(before)
    rows[:, 0] = unit
    torch.lerp(before[:, 1], rows[:, 0], FAST, out=rows[:, 1])
    torch.lerp(before[:, 2], rows[:, 0], SLOW, out=rows[:, 2])
    return rows


def _followed(view: ServerView, sketch: Sketch, samples: Tensor, state: State) -> State:
    """Momenta of accepted updates and of the QV gradient, from the samples' gradients [E, q, k + n]."""
    update = unit_rows(_single(_padded(sketch(view.previous_update[:, None]), view.num_workers))[:, 0])
    return {
        "update_fast": torch.lerp(state["update_fast"], update, FAST),
        "update_slow": torch.lerp(state["update_slow"], update, SLOW),
        "server": torch.lerp(state["server"], unit_rows(samples.mean(1)), LONG),
    }


def _compare(new: State, samples: Tensor, contrasts: Tensor) -> Comparison:
    """Compare the rows of the new state with each other and with QV samples and contrasts [E, q, k + n]."""
    references = torch.stack(
        [
            unit_rows(samples.mean(1)),
            unit_rows(unit_rows(samples).mean(1)),
            unit_rows(new["server"]),
            unit_rows(new["update_fast"]),
            unit_rows(new["update_slow"]),
            unit_rows(contrasts.mean(1)),
            unit_rows(unit_rows(contrasts).mean(1)),
        ],
        1,
    )
    rows, q = new["rows"], samples.shape[1]
    products = rows @ rows.mT  # [E, ROWS, n, n]
    inverse = products.diagonal(dim1=2, dim2=3).clamp(min=1e-12).rsqrt()  # [E, ROWS, n], of the norms
    others = torch.cat([references, samples, contrasts], 1)  # [E, REFERENCES + 2q, k]
    with_others = (rows.flatten(1, 2) @ others.mT).view(*inverse.shape, -1) * inverse[..., None]
    cosines, on_samples, on_contrasts = with_others.split([len(REFERENCES), q, q], 3)
    certainty = [_t_statistic(of[:, row]) for of in (on_samples, on_contrasts) for row in (0, 2)]
    return Comparison(
        pairs=products * inverse[..., None] * inverse[..., None, :],
        cosines=cosines,
        references=references,
        certainty=torch.stack(certainty, 2) / 3,
        consistency=(rows[:, :1] * rows[:, 1:]).sum(3) * inverse[:, :1] * inverse[:, 1:],
    )


def _tracked(seen: Comparison, mean_credits: Tensor) -> Tensor:
    """What running means are kept of, [E, n, TRACKED]."""
    likeness = _others(seen.pairs[:, 0], mean_credits)[..., 0]
    now = [seen.passed, seen.passed_contrast, seen.agreement, seen.contrast]
    return torch.stack([*(part[:, 0] for part in now), *seen.certainty[..., [0, 2]].unbind(2), likeness], 2)


def _lengths(
    rejected: Tensor, log_norms: Tensor, log_server_norm: Tensor, state: State
) -> tuple[Tensor, Tensor]:
    """Log norms over the median, the QV gradient's and the usual norm, [E, n, 3]; and the usual norm [E]."""
    median = log_norms.masked_fill(rejected, torch.nan).nanmedian(1).values.nan_to_num()
    usual = torch.where(state["age"] > 0, state["norm"], median)
    lengths = [log_norms - other[:, None] for other in (median, log_server_norm, usual)]
    return torch.stack(lengths, 2), torch.lerp(usual, median, LONG)


def _ranked(seen: Comparison, lengths: Tensor) -> Tensor:
    """What workers are ranked by, [E, n, 8]."""
    slow_likeness = _others(seen.pairs[:, 2], torch.zeros_like(lengths[..., 0]))[..., 0]
    columns = [
        seen.agreement[:, 0],
        seen.agreement[:, 2],
        seen.contrast[:, 2],
        slow_likeness,
        seen.passed[:, 0],
        lengths[..., 0],
        seen.contrast[:, 0],
        seen.passed_contrast[:, 0],
    ]
    return torch.stack(columns, 2)


def _relative(values: Tensor) -> Tensor:
    """Values [E, n, m] over their root mean square over the workers, which says what a weak signal says."""
    return values / values.square().mean(1, keepdim=True).sqrt().clamp(min=1e-6)


def _relative_credits(state: State) -> Tensor:
    """The last credits and their running mean, times n: [E, n, 2]."""
    mean = _corrected(state["mean_credits"], LONG, state["ages"].clamp(min=1))
    return torch.stack([state["credits"], mean], 2) * mean.shape[1]


def _run(
    new: State, state: State, seen: Comparison, lengths: Tensor, contrasts: Tensor, t_long: Tensor
) -> Tensor:
    """What concerns the run as a whole, [E, PER_RUN]."""
    loss, references = new["loss"], seen.references
    columns = [
        loss,
        torch.where(state["age"] > 0, loss - state["loss"], 0) * 3,
        new["age"].rsqrt(),
        torch.full_like(loss, math.log(lengths.shape[1])),
        (references[:, 0] * references[:, 4]).sum(1),
        (references[:, 0] * references[:, 2]).sum(1),
        lengths[..., 0].clamp(-LIMIT, LIMIT).std(1, correction=0),
        contrasts.flatten(1).any(1).to(loss.dtype),
        loss - new["lowest"],
        *t_long.square().mean(1).sqrt().unbind(1),
    ]
    return torch.stack(columns, 1)


def remember(state: State, credits: Tensor, hidden: Tensor) -> State:
    """The state with what the network has decided, shapes [E, n] and [E, n, HIDDEN]."""
    mean = torch.lerp(state["mean_credits"], credits.detach(), LONG)
    return dict(state, credits=credits.detach(), mean_credits=mean, hidden=hidden)


def _corrected(mean: Tensor, rate: float, ages: Tensor) -> Tensor:
    """A running mean [E, n, ...] that began at zero, as many rounds [E, n] ago."""
    return mean / (1 - (1 - rate) ** ages).view(*ages.shape, *[1] * (mean.dim() - 2))


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
