import pytest
import torch

# pytest-xdist runs one process per core; threads inside them would only get into each other's way.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _no_global_randomness(request):
    """Nothing in byzgym may draw from torch's global generator, or seed it.

    Left out are tests marked ``global_rng``: stable-baselines3 does both, and so does building a module in
    the ordinary way.
    """
    before = torch.get_rng_state()
    yield
    if "global_rng" not in request.keywords:
        assert torch.equal(torch.get_rng_state(), before), "the test moved torch's global generator"
