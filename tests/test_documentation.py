"""The Python blocks of README.md and docs/ run as they stand there.

The blocks of a page run one after the other and share their names. A block below the line
``<!-- not run -->`` is left out: it needs a network, a long time, or names that the reader brings.
"""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]
BLOCK = re.compile(r"^(<!-- not run -->\s*)?^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page):
    """The blocks to run, each as (number of its first line, source)."""
    for match in BLOCK.finditer(page):
        not_run, source = match.groups()
        if not not_run:
            yield page.count("\n", 0, match.start(2)) + 1, source


@pytest.mark.global_rng
@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_python_examples_run(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "__main__"}
    for line, source in blocks(path.read_text(encoding="utf-8")):
        # Empty lines before the source make tracebacks name the line of the page.
        exec(compile("\n" * (line - 1) + source, str(path), "exec"), names)


def test_blocks_may_be_left_out():
    page = "```python\na\n```\n<!-- not run -->\n```python\nb\n```\n```bash\nls\n```\n```python\nc\n```\n"
    assert list(blocks(page)) == [(2, "a\n"), (12, "c\n")]
