"""Observations where most rows are rejected, and of rows far too long or short for squares."""

import numpy as np
import pytest
import torch

from byzgym.aggregation import ServerView
from byzgym.envs.observations import ObservationBuilder


def view_of(rows, qv_gradient, rejected=None):
    return ServerView(
        gradients=rows[None],
        theta=torch.zeros(1, rows.shape[1]),
        learning_rate=torch.ones(1),
        qv_loss=lambda theta: (theta * qv_gradient).sum(1) + 2.0,
        rejected=rejected,
    )


def test_pooled_takes_its_unit_from_the_received_rows_even_if_most_are_rejected():
    rows = torch.zeros(7, 4)
    rows[1, :2] = torch.tensor([3.0, 4.0])  # norms 5, 10 and 50: the median is 10
    rows[4, :2] = torch.tensor([6.0, 8.0])
    rows[6, 2:] = torch.tensor([30.0, 40.0])
    view = view_of(rows, torch.tensor([1.0, 1.0, -1.0, -3.0]), rejected=(rows == 0).all(1)[None])
    assert view.rejected.sum() == 4
    unit = 10 / 2  # divided by the root of d = 4
    expected = np.zeros((8, 2))
    expected[1], expected[4], expected[6], expected[7] = [3.5, 0], [7, 0], [0, 35], [1, -2]
    expected = np.sign(expected) * np.log1p(np.abs(expected) / unit)
    np.testing.assert_allclose(ObservationBuilder("pooled", 2, 7, 4, 10)(view)[0], expected, rtol=1e-6)


@pytest.mark.parametrize("scale", [1e30, 1.0, 1e-30])
def test_cosines_do_not_depend_on_the_scale(scale):
    rows = scale * torch.tensor([[3.0, 4.0], [0.0, -2.0], [0.0, 0.0]])
    view = view_of(rows, scale * torch.tensor([0.0, 1.0]))
    seen = ObservationBuilder(["similarity", "trust"], 2, 3, 2, 10)(view)
    np.testing.assert_allclose(seen["similarity"][0], [[1, -0.8, 0], [-0.8, 1, 0], [0, 0, 0]], atol=1e-6)
    np.testing.assert_allclose(seen["trust"][0], [0.8, -1, 0], atol=1e-6)
