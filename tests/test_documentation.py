"""The Python blocks of README.md and docs/ run as they stand there.

The blocks of a page run one after the other and share their names. A block below the line
``<!-- not run -->`` is left out: it needs a network, a long time, or names that the reader brings.
"""

import re
from pathlib import Path

import pytest

from byzgym import aggregation, attacks, tasks

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]
TABLES = {
    "attacks.md": (attacks.registry.registry, attacks.roles.registry),
    "rules.md": (aggregation.registry.registry, aggregation.pre.registry.registry),
    "tasks.md": (
        tasks.registry.registry,
        tasks.models.registry,
        tasks.partitions.registry,
        tasks.quasi_validation.registry,
    ),
}
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


@pytest.mark.parametrize("page", TABLES)
def test_tables_have_all_that_is_built_in(page):
    rows = [
        line for line in (ROOT / "docs" / page).read_text(encoding="utf-8").splitlines() if line[:1] == "|"
    ]
    listed = {name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[1])}
    built_in = {n for registry in TABLES[page] for n in registry.names() if registry.is_built_in(n)}
    assert built_in <= listed


def test_rules_are_described_as_they_are():
    page = (ROOT / "docs" / "rules.md").read_text(encoding="utf-8")
    rows = [line.replace("\\|", "").split("|")[1:-1] for line in page.splitlines() if line.startswith("| `")]
    for name, _, condition, _, needs, _ in rows:
        rules, pre = TABLES["rules.md"]
        plain = name.strip(" `*")
        made = (pre if plain in pre.names() else rules).factory(plain)
        known = {need: need in getattr(made, "needs", ()) for need in ("memory", "qv")}
        told = {"memory": "memory" in needs, "qv": "QV" in needs, "f": "f" in needs.split()}
        assert condition.strip() == made.condition, name
        assert told == known | {"f": made.uses_num_byzantine}, name
        assert name.rstrip().endswith("*") == made.linear, name


def test_the_readme_counts_what_is_built_in():
    """Names that a test has registered do not count."""
    kinds = [
        ("rules", aggregation.registry.registry),
        ("pre-aggregators", aggregation.pre.registry.registry),
        ("attacks", attacks.registry.registry),
        ("role functions", attacks.roles.registry),
        ("tasks", tasks.registry.registry),
        ("models", tasks.models.registry),
        ("partitions", tasks.partitions.registry),
    ]
    text = (ROOT / "README.md").read_text()
    for kind, registry in kinds:
        count = sum(registry.is_built_in(name) for name in registry.names())
        assert f"{count} {kind}" in text
