"""FLTrust and the server's own gradient: by hand, against a slow reference, and at the ends of the range."""

import aggregation_reference as reference
import numpy as np
import pytest
import torch
from aggregation_reference import every_family
from hypothesis import given, settings
from hypothesis import strategies as st
from server_views import normal, view_of

from byzgym.aggregation import make


def slow_fltrust(rows, server):
    own = np.sqrt((server**2).sum())
    total, trust = 0 * server, 0.0
    for row in rows:
        norm = np.sqrt((row**2).sum())
        if norm and own:
            agreement = max(0.0, row @ server / (norm * own))
            total, trust = total + agreement * own / norm * row, trust + agreement
    return total / trust if trust else total


@every_family
@pytest.mark.parametrize("n", [1, 2, 3, 11])
def test_against_reference(family, n):
    runs = torch.stack([reference.draw(family, n, 7, seed, torch.float64) for seed in range(3)])
    server = normal(3, 7, seed=9)
    update = make("fltrust").aggregate(view_of(runs, -server))
    for rows, own, result in zip(runs.numpy(), server.numpy(), update.numpy(), strict=True):
        np.testing.assert_allclose(result, slow_fltrust(rows, own), atol=1e-9)


def test_nobody_is_trusted_against_the_server():
    gradients = torch.tensor([[[-1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]])
    assert not make("fltrust").aggregate(view_of(gradients, torch.tensor([[-1.0, 0.0]]))).any()


def test_a_server_without_a_gradient_trusts_nobody():
    assert not make("fltrust").aggregate(view_of(torch.ones(1, 3, 2), torch.zeros(1, 2))).any()


@pytest.mark.parametrize("name", ["fltrust", "zeno_plus"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("entry", ["tiny", "smallest_normal", "max"])
def test_lengths_at_the_end_of_the_range(name, dtype, entry):
    size = torch.finfo(dtype).max if entry == "max" else torch.finfo(dtype).tiny
    if entry == "tiny":
        size = size / 8  # a number with fewer digits
    gradients = torch.tensor([[[size, 0.0], [0.0, -size]]], dtype=dtype)
    update = make(name).aggregate(view_of(gradients, torch.tensor([[-2.0, 0.0]], dtype=dtype)))
    torch.testing.assert_close(update, torch.tensor([[2.0, 0.0]], dtype=dtype))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), exponents=st.lists(st.integers(-30, 30), min_size=6, max_size=6))
def test_lengths_have_no_effect_and_the_update_is_no_longer_than_the_server(seed, exponents):
    rows, server = normal(1, 6, 8, seed=seed, dtype=torch.float32), normal(1, 8, seed=seed + 1).float()
    scaled = rows * torch.tensor([10.0**exponent for exponent in exponents])[:, None]
    update, other = (make("fltrust").aggregate(view_of(part, -server)) for part in (rows, scaled))
    torch.testing.assert_close(update, other, rtol=1e-3, atol=1e-5)
    assert other.norm() <= server.norm() * (1 + 1e-5)


def test_the_server_alone():
    server = normal(2, 5)
    for gradients in (normal(2, 3, 5, seed=1), torch.full((2, 3, 5), torch.nan, dtype=torch.float64)):
        torch.testing.assert_close(make("qv_only").aggregate(view_of(gradients, -server)), server)
