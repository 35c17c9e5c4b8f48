"""constraints/lowest.txt against the lower bounds in pyproject.toml."""

import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[1]


def versions(requirements, operator):
    """Name -> the version that follows the operator."""
    parsed = [Requirement(requirement) for requirement in requirements]
    return {r.name: Version(s.version) for r in parsed for s in r.specifier if s.operator == operator}


def test_lowest_versions_are_the_lower_bounds():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    tested = [one for name, needed in extras.items() if name not in ("lint", "bench") for one in needed]
    bounds = versions(project["dependencies"] + tested, ">=")
    lines = (ROOT / "constraints" / "lowest.txt").read_text().splitlines()
    assert versions([line for line in lines if line and not line.startswith("#")], "==") == bounds
