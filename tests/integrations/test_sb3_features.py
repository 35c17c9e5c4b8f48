"""What the equivariant policies compute from submissions: features by hand, and the networks on them."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn

from byzgym.integrations.sb3 import EquivariantExtractor
from byzgym.integrations.sb3.features import LARGEST_EXPONENT, _described, _endorsed, _summary
from byzgym.integrations.sb3.networks import SetNetwork


def normal(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def compressed(values):
    return values.sign() * values.abs().log1p()


def test_cosines_and_norms_by_hand():
    rows, server = normal(4, 6, dtype=torch.float64), normal(6, seed=1, dtype=torch.float64)
    seen = _described(compressed(rows)[None], compressed(server)[None, None])[0]
    norms = rows.norm(dim=1)
    unit = rows / norms[:, None]
    cosines, trust = unit @ unit.T, unit @ server / server.norm()
    off = cosines - cosines.diag().diag()
    for i in range(4):
        others = [j for j in range(4) if j != i]
        mean = unit[others].sum(0)
        expected = [
            cosines[i, others].mean(),
            cosines[i, others].max(),
            cosines[i, others].min(),
            unit[i] @ mean / mean.norm(),
            (norms[i] / norms.min()).log(),
            trust[i],
            off[i] @ trust,  # passed on once and twice
            off[i] @ (off @ trust),
            (norms[i] / server.norm()).log(),
            torch.ones((), dtype=torch.float64),  # received
        ]
        torch.testing.assert_close(seen[i], torch.stack(expected), rtol=1e-6, atol=1e-9)


def test_trust_is_passed_on_to_others_and_not_to_oneself():
    similarity = torch.tensor([[1.0, 0.5, -0.2], [0.5, 1.0, 0.1], [-0.2, 0.1, 1.0]])
    trust = torch.tensor([0.3, 0.6, -0.9])
    once = torch.tensor([0.5 * 0.6 + 0.2 * 0.9, 0.5 * 0.3 - 0.1 * 0.9, -0.2 * 0.3 + 0.1 * 0.6])
    twice = (similarity - torch.eye(3)) @ once
    found = _endorsed(similarity[None], trust[None, :, None])[0]
    torch.testing.assert_close(found, torch.stack([once, twice], 1))


def test_one_worker_has_no_others_to_resemble():
    assert _summary(torch.ones(2, 1, 1)).tolist() == [[[0, 0, 0]], [[0, 0, 0]]]


def test_pooled_features_compare_with_the_servers_gradient():
    extractor = EquivariantExtractor(spaces.Box(-100, 100, (6, 8), np.float32))
    rows = normal(1, 6, 8)
    turned = rows.clone()
    turned[:, -1] *= -1
    assert not torch.allclose(extractor(rows), extractor(turned))


def test_entries_beyond_the_largest_exponent_are_equal():
    def described(entry):
        return _described(torch.tensor([[[entry, 1.0], [2.0, 3.0]]]), None)

    torch.testing.assert_close(described(LARGEST_EXPONENT + 10), described(LARGEST_EXPONENT + 69))
    assert not torch.allclose(described(LARGEST_EXPONENT - 10), described(LARGEST_EXPONENT))


@pytest.mark.global_rng
def test_actor_and_critic_use_the_features_of_the_round():
    torch.manual_seed(0)
    network = SetNetwork(4, 3, 2, [8, 8], nn.Tanh)
    features = normal(1, 4 * 3 + 2)
    changed = features.clone()
    changed[:, -2:] += 1
    for before, after in zip(network(features), network(changed), strict=True):
        assert not torch.allclose(before, after)


@pytest.mark.global_rng
def test_the_critic_sees_mean_and_largest_encoding():
    torch.manual_seed(0)
    network = SetNetwork(3, 2, 0, [4], nn.ReLU)
    features = normal(1, 6)
    encodings = network.critic(features.reshape(1, 3, 2), features[:, :0])
    expected = torch.cat([encodings.mean(1), encodings.max(1).values], 1)
    torch.testing.assert_close(network.forward_critic(features), expected)
    assert not torch.allclose(encodings.mean(1), encodings.max(1).values)
