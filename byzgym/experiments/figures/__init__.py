"""The figures of a comparison, drawn without pyplot, so that no global state is touched."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from matplotlib import rc_context
from matplotlib.figure import Figure

from byzgym.envs.rendering import default_style
from byzgym.experiments import traces
from byzgym.experiments.figures import credits, curves, maps
from byzgym.experiments.figures.style import Palette
from byzgym.experiments.results import Results
from byzgym.files import write_whole

Format = Literal["png", "pdf", "svg"]
FORMATS: tuple[Format, ...] = ("png",)

_DPI = 160


def draw(
    results: Results, folder: Path, highlight: Sequence[str] = (), formats: Sequence[Format] = FORMATS
) -> list[Path]:
    """Draw all figures of one setting.

    Args:
        results: What they show.
        folder: Where the files go.
        highlight: Policies in colour, all others grey; none for colours everywhere.
        formats: One file in each of them.

    Returns:
        The files in the order in which a report shows them.
    """
    palette, played = Palette(results, highlight), results.played_numbers
    with _style():
        figures: dict[str, Figure | None] = {"overview": curves.overview(results, palette)}
        if len(played) > 1:
            figures["breakdown"] = curves.breakdown(results, palette)
        for f in played:
            figures[f"accuracy_f{f}"] = curves.accuracy_over_rounds(results, f, palette)
            figures[f"final_f{f}"] = maps.final_accuracy(results, f)
            figures[f"profile_f{f}"] = curves.profiles(results, f, palette)
            figures[f"detection_f{f}"] = credits.detection(results, f, palette)
            figures[f"credits_f{f}"] = credits.traces(results, f, traces.read(results, f), palette)
        return _save(figures, folder, formats)


def draw_sweep(
    found: Sequence[Results], names: Sequence[str], folder: Path, formats: Sequence[Format] = FORMATS
) -> list[Path]:
    """Draw what shows all settings of a sweep; returns the files."""
    with _style():
        return _save({"settings": maps.settings(found, names)}, folder, formats)


@contextmanager
def _style() -> Iterator[None]:
    # A name with dollar signs is no formula, and files do not depend on the time or on chance.
    with default_style(), rc_context({"text.parse_math": False, "svg.hashsalt": "byzgym"}):
        yield


def _save(figures: Mapping[str, Figure | None], folder: Path, formats: Sequence[Format]) -> list[Path]:
    files = []
    for name, figure in figures.items():
        for suffix in dict.fromkeys(formats) if figure else ():
            files.append(folder / f"{name}.{suffix}")
            metadata = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}.get(suffix)
            with write_whole(files[-1]) as path:
                figure.savefig(  # type: ignore[union-attr]
                    path, dpi=_DPI, facecolor="white", bbox_inches="tight", pad_inches=0.12, metadata=metadata
                )
    return files
