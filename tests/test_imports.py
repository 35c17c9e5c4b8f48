"""Imports only go down: attacks and tasks know nothing of each other and of Gymnasium."""

import ast
from pathlib import Path

import pytest

import byzgym

SHARED = {"ambient", "memory", "numerics", "registry", "specs", "validation"}


def imports_of(package):
    imported = set()
    for path in (Path(byzgym.__file__).parent / package).glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported |= {f"{node.module}.{alias.name}" for alias in node.names}
    return imported


@pytest.mark.parametrize("package", ["attacks", "tasks"])  # of rules, see aggregation/test_registry.py
def test_imports_only_go_down(package):
    imported = imports_of(package)
    assert {name.split(".")[1] for name in imported if name.startswith("byzgym.")} <= {package, *SHARED}
    assert not {"gymnasium", "stable_baselines3"} & {name.split(".")[0] for name in imported}


def test_forensics_know_no_simulation():
    """Only `evaluate` is told the truth, by its caller; the picture takes its style from envs."""
    imported = imports_of("forensics")
    known = {"forensics", "aggregation", "envs", "files", *SHARED}
    assert {name.split(".")[1] for name in imported if name.startswith("byzgym.")} <= known
    assert [name for name in imported if ".envs" in name] == ["byzgym.envs.rendering.default_style"]
