"""Names in Markdown, so that a reader sees them as they are, whatever signs they have."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

# Underscores inside words, and brackets that make no link, are no markup.
_SIGNS = re.compile(r"[\\`*<>&|~$]|(?<![^\W_])_|_(?![^\W_])|\](?=[(\[:])|!(?=\[)")
_BEGINNING = re.compile(r"^(\d*)([.)]|[-+=]+|#+)(?= |$)")


def plain(text: str) -> str:
    r"""A text in one line of which nothing is markup, also in the cell of a table.

    Example:
        >>> print(plain("krum:power=2 & <b>a_b|*c*"))
        krum:power=2 \& \<b\>a_b\|\*c\*
    """
    line = _SIGNS.sub(r"\\\g<0>", " ".join(text.split()))
    return _BEGINNING.sub(r"\1\\\2", line)  # no heading, and no list


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], numbers: bool = False) -> list[str]:
    """The lines of a table of cells that are Markdown; with ``numbers`` all but the first are set right."""
    others = "---:" if numbers else "---"
    lines = [columns, ["---", *[others] * (len(columns) - 1)], *rows]
    return [f"| {' | '.join(line)} |" for line in lines]


def code(text: str) -> list[str]:
    """The lines of a block of code, whatever is in it."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return [fence, text, fence]
