import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces

from byzgym.integrations.sb3 import EquivariantExtractor
from byzgym.integrations.sb3.features import LARGEST_EXPONENT, _described, _summary


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


def test_one_worker_resembles_nobody():
    assert _summary(torch.ones(2, 1, 1)).tolist() == [[[0, 0, 0]], [[0, 0, 0]]]


def test_pooled_features_see_the_servers_gradient():
    extractor = EquivariantExtractor(spaces.Box(-100, 100, (6, 8), np.float32))
    rows = normal(1, 6, 8)
    turned = rows.clone()
    turned[:, -1] *= -1
    assert not torch.allclose(extractor(rows), extractor(turned))


def test_the_largest_exponent():
    def described(entry):
        return _described(torch.tensor([[[entry, 1.0], [2.0, 3.0]]]), None)

    torch.testing.assert_close(described(LARGEST_EXPONENT + 10), described(LARGEST_EXPONENT + 69))
    assert not torch.allclose(described(LARGEST_EXPONENT - 10), described(LARGEST_EXPONENT))


def test_features_are_finite():
    space = spaces.Box(-100, 100, (5, 8), np.float32)
    extractor = EquivariantExtractor(space)
    rng = np.random.default_rng(0)
    for scale in (0, 1e-30, 1.0, 100.0):
        rows = np.clip(scale * rng.standard_normal((3, 5, 8)), -100, 100).astype(np.float32)
        rows[:, 1] = 0  # a rejected submission
        features = extractor(torch.as_tensor(rows))
        assert features.shape == (3, extractor.features_dim)
        assert torch.isfinite(features).all()


@pytest.mark.parametrize(
    "space",
    [
        spaces.Box(-1, 1, (5,), np.float32),
        spaces.Dict({"loss": spaces.Box(0, 1, (1,))}),
        spaces.Dict({"other": spaces.Box(0, 1, (4, 2)), "norms": spaces.Box(0, 1, (4,))}),
        spaces.Discrete(3),
    ],
)
def test_extractor_refuses_other_observations(space):
    with pytest.raises(ValueError, match="observation must"):
        EquivariantExtractor(space)


@pytest.mark.parametrize(
    "part", ["gradients", "similarity", "trust", "loss", "relative_norms", "reputation", "history"]
)
def test_single_parts_are_not_taken_for_pooled(tiny, part):
    space = gym.make("ByzantineAggregation-v0", observation=part, **tiny).observation_space
    with pytest.raises(ValueError, match="observation must be the pooled Box"):
        EquivariantExtractor(space)
    listed = gym.make("ByzantineAggregation-v0", observation=[part, "norms"], **tiny).observation_space
    assert EquivariantExtractor(listed).rows == tiny["num_workers"]


def test_rejected_rows_are_not_the_shortest():
    rows = torch.tensor([[3.0, 4.0], [0.0, 0.0], [0.0, 20.0]])  # norms 5, 0 and 20
    seen = _described(rows.log1p()[None], None)[0]
    relative, received = seen[:, 4], seen[:, -1]
    assert received.tolist() == [1, 0, 1]
    assert relative.tolist() == pytest.approx([0, 0, np.log(4)], abs=1e-5)
    assert not seen[1].any()


def test_means_over_rounds_beside_those_of_others():
    spaces_of = {"reputation": spaces.Box(-1, 1, (2,)), "history": spaces.Box(-1, 1, (2, 2))}
    extractor = EquivariantExtractor(spaces.Dict(spaces_of))
    parts = {
        "reputation": torch.tensor([[0.3, -0.4]]),
        "history": torch.tensor([[[0.01, 0.0], [0.01, 0.0]]]),
    }
    seen = extractor(parts).view(2, 6)
    size = (0.25 / 2) ** 0.5  # root mean square of 0.3 and 0.4
    expected = [[0.3, 0.3 / size, 0.01, 0, 1, 0], [-0.4, -0.4 / size, 0.01, 0, 1, 0]]
    torch.testing.assert_close(seen, torch.tensor(expected))
    tiny = extractor({name: part * 1e-30 for name, part in parts.items()})
    assert tiny.isfinite().all()


def test_the_age_is_of_the_round():
    boxes = {"trust": spaces.Box(-1, 1, (3,)), "age": spaces.Box(0, 1, (1,))}
    extractor = EquivariantExtractor(spaces.Dict(boxes))
    assert (extractor.rows, extractor.row_dim, extractor.global_dim) == (3, 1, 1)


def test_norms_are_relative_to_the_smallest():
    extractor = EquivariantExtractor(spaces.Dict({"norms": spaces.Box(0, 100, (3,), np.float32)}))
    rows = torch.tensor([[2.0, 0.5, 5.0], [2.0, 0.0, 5.0], [0.0, 0.0, 0.0]])  # zero: rejected
    seen = extractor({"norms": rows}).view(3, 3, 2)
    assert torch.equal(seen[..., 1], rows)
    assert seen[..., 0].tolist() == [[1.5, 0, 4.5], [0, -2, 3], [0, 0, 0]]
