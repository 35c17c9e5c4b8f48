import pytest
import torch
from torch import nn

from byzgym.integrations.sb3.networks import SetNetwork

pytestmark = pytest.mark.global_rng


def test_features_of_the_round_are_used():
    torch.manual_seed(0)
    network, features = SetNetwork(4, 3, 2, [8, 8], nn.Tanh), torch.randn(1, 4 * 3 + 2)
    changed = features.clone()
    changed[:, -2:] += 1
    for before, after in zip(network(features), network(changed), strict=True):
        assert not torch.allclose(before, after)
