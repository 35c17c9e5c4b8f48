import dataclasses

import pandas as pd
import pytest

from byzgym.experiments import Comparison, compare

SMALL = {"task": "synthetic", "rounds": 20, "seeds": 2, "attacks": ("sign_flip", "ipm:epsilon=2.0")}


@pytest.fixture
def small():
    """Makes a small comparison, with changes."""
    return lambda **changes: Comparison(**{**SMALL, "policies": ("mean", "krum", "median"), **changes})


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """What a small comparison of five policies gives; its files are in `folder`."""
    comparison = Comparison(**SMALL, policies=("mean", "krum", "median", "gaa", "oracle"))
    return compare(comparison, tmp_path_factory.getbasetemp() / "small", overwrite=True)


@pytest.fixture(scope="module")
def folder(results, tmp_path_factory):
    return tmp_path_factory.getbasetemp() / "small"


@pytest.fixture
def many(results):
    """The results with 40 more policies, policy 0 to 39, which are the worse the higher their number."""
    names = [f"policy {number}" for number in range(40)]
    comparison = dataclasses.replace(results.comparison, policies=(*names, *results.comparison.policies))
    tables = {}
    for name in ("runs", "curves", "expected"):
        table = getattr(results, name)
        copies = [table[table["policy"] == "krum"].assign(policy=policy) for policy in names]
        if name != "expected":
            copies = [one.assign(accuracy=0.99 - number / 50) for number, one in enumerate(copies)]
        if name == "runs":
            copies = [one.assign(diverged=False) for one in copies]
        tables[name] = pd.concat([*copies, table], ignore_index=True)
    return dataclasses.replace(results, comparison=comparison, **tables)
