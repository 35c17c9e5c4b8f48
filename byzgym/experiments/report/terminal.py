"""Tables in a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich import table as rich_table
from rich.console import Console, Group, RenderableType
from rich.text import Text

from byzgym.experiments.results import Results
from byzgym.experiments.tables import Cell, Signs, Table, accuracy_table, success_table, summary_table

_GAP = 3  # between two columns


def show(results: Results, console: Console) -> None:
    """Print the summary over attacks and the accuracies, for each number of Byzantine workers."""
    star = "" if console.color_system is not None and not console.no_color else "*"
    ascii_only = console.options.ascii_only
    signs = Signs("!", "+-", (), star, "-", "x") if ascii_only else Signs(best=star)
    for f in results.played_numbers:
        tables = [summary_table(results, f, signs, named=False), accuracy_table(results, f, signs)]
        for table in (*tables, success_table(results, f)):
            if table.rows:
                console.print(Text())
                console.print(for_terminal(table, console.width))


def for_terminal(table: Table, width: int) -> RenderableType:
    """The table for a terminal; as many attacks side by side as ``width`` columns have room for."""
    columns = [_aligned(table, number) for number in range(len(table.columns) - 1)]
    parts: list[RenderableType] = [Text(table.title, style="bold")]
    while columns:
        used, fitting = max(len(name) for name in (table.columns[0], *(row.name for row in table.rows))), 0
        for column in columns:
            used += _GAP + len(column[0])
            if used > width and fitting:
                break
            fitting += 1
        parts += [Text(), _grid(table, columns[:fitting])]
        columns = columns[fitting:]
    notes = [Text(line, style="yellow" if line.startswith("warning") else "dim") for line in table.notes]
    return Group(*parts, Text(), *notes)


def _aligned(table: Table, number: int) -> list[Text]:
    """A column's heading and entries, all of one width: numbers to the right, marks behind them."""
    cells = [Cell(table.columns[number + 1]), *(row.cells[number] for row in table.rows)]
    width, marks = max(len(cell.text) for cell in cells), max(len(cell.marks) for cell in cells)
    return [
        Text(cell.text.rjust(width) + cell.marks.ljust(marks), style="bold green" if cell.best else "")
        for cell in cells
    ]


def _grid(table: Table, columns: Sequence[list[Text]]) -> rich_table.Table:
    grid = rich_table.Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    # Texts, because strings would be read as markup: names may hold brackets.
    for heading in (Text(table.columns[0]), *(column[0] for column in columns)):
        grid.add_column(heading, no_wrap=True)
    for number, row in enumerate(table.rows):
        if row.reference and number and not table.rows[number - 1].reference:
            grid.add_section()
        entries = (column[number + 1] for column in columns)
        grid.add_row(Text(row.name), *entries, style="italic" if row.reference else "")
    return grid
