import pytest
import torch


@pytest.fixture(autouse=True)
def _no_global_randomness(request):
    """Nothing in byzgym may draw from, or seed, torch's global generator."""
    before = torch.get_rng_state()
    yield
    if "global_rng" not in request.keywords:
        assert torch.equal(torch.get_rng_state(), before), "the test moved torch's global generator"
