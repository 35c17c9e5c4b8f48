"""Bit flips and the gambler."""

from __future__ import annotations

import struct

import pytest
import torch
from attack_cases import gradients_like, mask_of, submit

from byzgym import attacks


def flip(value: float, bits) -> float:
    """Slow: through the bytes of one number."""
    (word,) = struct.unpack("<I", struct.pack("<f", value))
    for bit in bits:
        word ^= 1 << (bit - 1)
    return struct.unpack("<f", struct.pack("<I", word))[0]


@pytest.mark.parametrize(
    ("bits", "value", "flipped"),
    [
        ((32,), 1.5, -1.5),  # the sign
        ((23,), 1.0, 1.5),  # the first bit of the fraction
        ((22,), 1.0, 1.25),
        ((24,), 1.0, 0.5),  # the last bit of the exponent: 127 -> 126
        ((31,), 2.0, 0.0),  # the first bit of the exponent: 128 -> 0
        ((22, 30, 31, 32), 2.0, -(2.0**-63) * 1.25),  # 128 = 0b10000000 -> 0b01000000 = 64
    ],
)
def test_bit_1_is_the_least_significant(bits, value, flipped):
    submitted = submit("bit_flip", torch.full((1, 2, 3), value), mask_of(2, [0]), bits=bits)
    assert submitted[0, 0].tolist() == [flipped] * 3
    assert submitted[0, 1].tolist() == [value] * 3


@pytest.mark.parametrize("bits", [(22, 30, 31, 32), tuple(range(1, 33)), [9, 32]])
def test_the_first_byzantine_numbers_are_flipped(bits):
    gradients = gradients_like(2, 4, 9)
    mask = mask_of(4, [0, 2], [])
    submitted = submit("bit_flip", gradients, mask, dimensions=5, bits=bits)
    expected = gradients.clone()
    for env, worker in mask.nonzero().tolist():
        for j in range(5):
            expected[env, worker, j] = flip(gradients[env, worker, j].item(), bits)
    assert torch.equal(submitted.view(torch.int32), expected.view(torch.int32))  # NaN equals NaN


def test_one_worker_per_coordinate_is_hit():
    gradients = gradients_like(2, 20, 1500)
    submitted = submit("bit_flip", gradients, mask_of(20, [0], []), victims="all")
    hit = submitted.view(torch.int32) != gradients.view(torch.int32)
    assert (hit[..., :1000].sum(1) == 1).all()
    assert not hit[..., 1000:].any()
    # Each worker is hit about 50 times in 1000; the standard deviation is 7.
    counts = hit.sum(-1)
    assert counts.min() > 15
    assert counts.max() < 85
    flipped = (gradients.view(torch.int32) ^ submitted.view(torch.int32))[hit].unique()
    assert [number & 0xFFFFFFFF for number in flipped.tolist()] == [0xE0200000]


def test_fewer_coordinates_than_dimensions():
    gradients = gradients_like(1, 3, 4)
    hit = submit("bit_flip", gradients, mask_of(3, []), victims="all") != gradients
    assert hit.sum(1).tolist() == [[1, 1, 1, 1]]


def test_bit_flip_wants_float32():
    gradients = gradients_like(1, 3, 4).double()
    with pytest.raises(TypeError, match=r"torch\.float32, got torch\.float64"):
        submit("bit_flip", gradients, mask_of(3, [0]))


@pytest.mark.parametrize("name", ["bit_flip", "gambler"])
def test_the_scope_follows_the_victims(name):
    assert attacks.make(name, victims="all").scope == "transmission"
    assert attacks.make(name, victims="byzantine").scope == "workers"


@pytest.mark.parametrize(("dimension", "num_servers"), [(100, 20), (103, 20), (7, 20), (10, 1)])
def test_the_servers_share_the_coordinates(dimension, num_servers):
    gradients = torch.ones(1, 3, dimension)
    touched = torch.zeros(dimension, dtype=torch.int64)
    sizes = []
    for server in range(num_servers):
        submitted = submit(
            "gambler", gradients, mask_of(3, []), probability=1.0, num_servers=num_servers, server=server
        )
        block = submitted[0, 0] != 1
        assert (submitted[0, :, block] == -1e20).all()
        touched += block
        sizes.append(int(block.sum()))
    assert (touched == 1).all()
    assert max(sizes) - min(sizes) <= 1


def test_the_gamblers_probability():
    gradients = gradients_like(2, 20, 20000)
    submitted = submit("gambler", gradients, mask_of(20, [0], [1]), probability=0.1, num_servers=2, server=1)
    hit = submitted != gradients
    assert not hit[..., :10000].any()
    assert torch.equal(submitted[hit], gradients[hit] * -1e20)
    share = hit[..., 10000:].double().mean(-1)
    # The standard deviation of each worker's share is 0.003.
    assert ((share - 0.1).abs() < 0.015).all()


def test_the_gambler_may_hit_the_byzantine_only():
    gradients = gradients_like(2, 4, 50)
    mask = mask_of(4, [0, 3], [])
    submitted = submit("gambler", gradients, mask, probability=1.0, num_servers=5, victims="byzantine")
    hit = submitted != gradients
    assert torch.equal(hit, mask[..., None] & (torch.arange(50) < 10))
