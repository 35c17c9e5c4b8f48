"""How a comparison is shown: tables in a terminal, report.md beside the figures, report.html in one file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from byzgym.experiments.figures import FORMATS, Format, draw, draw_sweep
from byzgym.experiments.report import page
from byzgym.experiments.report.contents import tables_of
from byzgym.experiments.report.markdown import setting_markdown, sweep_markdown
from byzgym.experiments.report.terminal import for_terminal, show
from byzgym.experiments.results import Results
from byzgym.files import write_texts

__all__ = ["for_terminal", "html", "markdown", "show", "write", "write_sweep"]


def html(results: Results, highlight: Sequence[str] = ()) -> str:
    """The report of a setting as one page."""
    return page.setting_html(results, tables_of(results), highlight)


def markdown(results: Results, figures: Sequence[Path] = ()) -> str:
    """The report of a setting as Markdown, with links to figures beside it."""
    return setting_markdown(results, tables_of(results), figures)


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
    figures, tables = draw(results, folder, highlight, formats), tables_of(results)
    texts = {
        folder / "report.html": page.setting_html(results, tables, highlight),
        folder / "report.md": setting_markdown(results, tables, figures),
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
        folder / "report.html": page.sweep_html(found, names, places),
        folder / "report.md": sweep_markdown(found, names, places, figures),
    }
    write_texts(texts)
    return [*figures, *texts]
