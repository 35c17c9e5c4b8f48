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
