"""The words around tables and figures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from byzgym.experiments.figures.maps import tasks
from byzgym.experiments.figures.style import BEST, has_many
from byzgym.experiments.results import Results

FIGURES = {
    "overview": "Accuracy over rounds under one attack.",
    "breakdown": "Accuracy at the end against the number f of Byzantine workers.",
    "accuracy": "Accuracy over rounds, one panel an attack.",
    "final": "Accuracy at the end of the runs, mean over seeds.",
    "profile": "Performance profile: the share of a policy's runs, all attacks and seeds together, "
    "above each accuracy.",
    "detection": "Credit on Byzantine workers at the end of the runs, 0 where a policy has found them all, "
    "and the AUC of low credit as a detector of them.",
    "credits": "Credit of each worker over the rounds of one run. The hue says whether the worker is "
    "Byzantine in that round, the darkness how much credit it has.",
    "settings": "The worst case over attacks in every setting.",
}
BANDS = {
    "overview": "Bands are one standard deviation over seeds.",
    "breakdown": "Bands are one standard deviation over seeds.",
    "accuracy": "Bands are one standard deviation over seeds.",
    "profile": "Bands are 95% bootstrap intervals.",
}
READING = (
    "Every run trains the model from scratch. In each round every worker that takes part submits a gradient "
    "(the change of its model, after several local steps), the Byzantine ones what their attack says. The "
    "policy sees the submissions and the server's quasi-validation (QV) samples and decides on the "
    "update. It never learns who is Byzantine.",
    "All policies meet the same seeds: the same initial model, data, batches and Byzantine workers. "
    "Differences between policies under one attack are therefore paired.",
    "A policy marked as a reference sees who is Byzantine, which no server does, or what workers sent before "
    "a fault in transmission. It shows what would be possible and does not compete for the best.",
    "Whoever attacks chooses the attack, so a policy is as good as under its worst one. The interquartile "
    "mean (IQM), the probability that a run beats another and the performance profiles are those of Agarwal "
    "et al. 2021 (https://arxiv.org/abs/2108.13264). Their bootstrap draws a seed together with its runs "
    "under all attacks, because a seed may be lucky or unlucky under all of them.",
    "A rule is told the number f of Byzantine workers. If its condition does not admit that f, it is told "
    "the largest one it accepts, as the notes below the table say.",
)
THREAT_MODELS = (
    "threat_model.md and threat_model.json in the folder of a setting are its threat-model record."
)


def caption(figure: Path, colours: str = "") -> str:
    """What a figure's file shows; ``colours`` says of lines which are in colour."""
    kind = figure.stem.split("_f")[0]
    none = "There are none of one seed, nor with more than six lines in colour."
    parts = [FIGURES[kind], BANDS[kind], none, colours] if kind in BANDS else [FIGURES[kind]]
    return " ".join(filter(None, parts))


def colours(results: Results) -> str:
    """Which lines are in colour, where those are not all."""
    if not has_many(results):
        return ""
    return f"In colour are highlighted policies, or the {BEST} of the best worst case and references."


def title(results: Results) -> str:
    """The heading of a report."""
    return f"byzgym compare: {results.comparison.task}"


def sweep_title(found: Sequence[Results]) -> str:
    """The heading of the report of several settings."""
    return f"byzgym sweep: {tasks(found)}"


def lead(results: Results) -> str:
    """What was played, in one sentence."""
    comparison, runs = results.comparison, results.runs
    deployment = {
        f", of which {comparison.cohort_size} take part in a round": comparison.cohort_size is not None,
        f", {comparison.local_steps} local steps": comparison.local_steps > 1,
        f", {comparison.num_servers} servers": comparison.num_servers > 1,
    }
    return (
        f"{len(runs)} runs of {comparison.rounds} rounds each: model {runs['model'].iloc[0]}, "
        f"{comparison.num_workers} workers{''.join(text for text, so in deployment.items() if so)}, "
        f"partition {comparison.partition}, roles {comparison.roles}, "
        f"{comparison.qv_size} QV samples, {comparison.seeds} {'seed' if comparison.seeds == 1 else 'seeds'}."
    )


def made(results: Results) -> str:
    """Versions and time."""
    seconds = float(results.runs["seconds"].sum())
    named = ", ".join(f"{name} {number}" for name, number in results.versions.items())
    return f"{named}. The runs took {seconds:.0f} s on device {results.comparison.device}."
