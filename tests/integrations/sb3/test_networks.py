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


def test_the_critic_pools_the_encodings():
    torch.manual_seed(0)
    network, features = SetNetwork(3, 2, 0, [4], nn.ReLU), torch.randn(1, 6)
    encodings = network.critic(features.reshape(1, 3, 2), features[:, :0])
    expected = torch.cat([encodings.mean(1), encodings.max(1).values], 1)
    torch.testing.assert_close(network.forward_critic(features), expected)
