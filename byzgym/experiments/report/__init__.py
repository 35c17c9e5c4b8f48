"""How a comparison is shown: tables in a terminal, report.md beside the figures, report.html in one file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from byzgym.experiments.figures import FORMATS, Format, draw, draw_sweep
from byzgym.experiments.report.markdown import markdown, sweep_markdown
from byzgym.experiments.report.page import html, sweep_html
from byzgym.experiments.report.terminal import for_terminal, show
from byzgym.experiments.results import Results
from byzgym.files import write_texts

__all__ = ["for_terminal", "html", "markdown", "show", "sweep_html", "write", "write_sweep"]


def write(
    results: Results,
    folder: str | Path,
    highlight: Sequence[str] = (),
    formats: Sequence[Format] = FORMATS,
) -> list[Path]:
    """Draw the figures and write report.html and report.md of one setting.

    Args:
        results: What was played.
        folder: Where the files go.
        highlight: Policies in colour, all others grey; none for colours everywhere.
        formats: Those of the figures beside the page.

    Returns:
        The files written.
    """
    folder = Path(folder)
    figures = draw(results, folder, highlight, formats)
    texts = {
        folder / "report.html": html(results, highlight),
        folder / "report.md": markdown(results, figures),
    }
    write_texts(texts)
    return [*figures, *texts]


def write_sweep(
    found: Sequence[Results],
    names: Sequence[str],
    places: Sequence[str],
    folder: str | Path,
    formats: Sequence[Format] = FORMATS,
) -> list[Path]:
    """Write the report of all settings of a sweep, which leads to those of the settings.

    Args:
        found: The settings.
        names: What tells them from each other.
        places: The folders of their reports, below ``folder``.
        folder: Where the files go.
        formats: Those of the figures beside the page.

    Returns:
        The files written.
    """
    folder = Path(folder)
    figures = draw_sweep(found, names, folder, formats)
    texts = {
        folder / "report.html": sweep_html(found, names, places),
        folder / "report.md": sweep_markdown(found, names, places, figures),
    }
    write_texts(texts)
    return [*figures, *texts]
