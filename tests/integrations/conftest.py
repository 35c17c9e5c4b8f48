import pytest

TINY = {
    "task": "synthetic",
    "num_workers": 4,
    "num_byzantine": 2,
    "attack": "sign_flip",
    "rounds": 8,
    "pool_size": 4,
}


@pytest.fixture
def tiny():
    return dict(TINY)
