"""What every registered attack keeps to, whatever it does."""

from __future__ import annotations

import pytest
import torch
from attack_cases import context_for, gradients_like, mask_of, states_of, submit

from byzgym import attacks

# These do not read what Byzantine workers would send.
BLIND = {"gaussian", "uniform", "random", "zero", "omniscient", "ipm", "alie"}
BUILT_IN = {*BLIND, "bit_flip", "gambler", "label_flip", "none", "scaled", "sign_flip"}
GAMBLER = {"name": "gambler", "probability": 0.3, "num_servers": 2, "factor": -3.0}
SPECS = [
    *sorted(BUILT_IN),
    {"name": "alie", "z": 1.0},
    {"name": "bit_flip", "victims": "all", "dimensions": 5},
    GAMBLER,
    {**GAMBLER, "victims": "byzantine"},
]
RANDOM = ["gaussian", "random", "uniform", {"name": "bit_flip", "victims": "all"}, GAMBLER]
# Different numbers of Byzantine workers: some, none, all.
MASK = mask_of(6, [1, 4], [], [0, 1, 2, 3, 4, 5], [5])


def test_the_built_in_attacks_are_registered():
    assert set(attacks.names()) == BUILT_IN
    assert {name for name in BUILT_IN if not attacks.make(name).reads_own} == BLIND


@pytest.mark.parametrize("spec", SPECS, ids=str)
class TestEveryAttack:
    def test_keeps_shape_and_type(self, spec):
        for num_workers, dimension, mask in ((6, 1, MASK), (1, 4, mask_of(1, [0], []))):
            gradients = gradients_like(len(mask), num_workers, dimension)
            submitted = submit(spec, gradients, mask)
            assert (submitted.shape, submitted.dtype) == (gradients.shape, gradients.dtype)

    def test_takes_an_expanded_view(self, spec):
        gradients = gradients_like(4, 1, 33).expand(4, 6, 33)
        assert torch.equal(submit(spec, gradients, MASK), submit(spec, gradients.contiguous(), MASK))

    def test_a_batch_equals_its_environments_alone(self, spec):
        attack, gradients = attacks.make_from(spec), gradients_like(4, 6, 2410)
        context = context_for(gradients, seed=7)
        batch = attack(gradients, MASK, context)
        for env, (one, mask) in enumerate(zip(gradients, MASK, strict=True)):
            single = context_for(one[None], seed=7 + env)
            assert torch.equal(attack(one[None], mask[None], single)[0, mask], batch[env, mask])
            assert torch.equal(states_of(single)[0], states_of(context)[env])

    def test_extreme_sizes_do_not_give_nan(self, spec):
        for size in (1e30, 1e-30):
            assert not submit(spec, gradients_like(4, 6, 33) * size, MASK).isnan().any()

    def test_honest_rows_stay_as_they_are(self, spec):
        if attacks.make_from(spec).scope == "workers":
            gradients = gradients_like(4, 6, 33)
            submitted = submit(spec, gradients, MASK)
            assert torch.equal(submitted[~MASK], gradients[~MASK])
            assert torch.equal(submitted[MASK], gradients[MASK]) == (spec in ("none", "label_flip"))


@pytest.mark.parametrize("spec", RANDOM, ids=str)
def test_noise_differs_between_rounds_and_envs(spec):
    attack, gradients = attacks.make_from(spec), gradients_like(1, 6, 33).expand(2, 6, 33)
    context, mask = context_for(gradients), mask_of(6, [0, 1, 2], [0, 1, 2])
    first, second = attack(gradients, mask, context), attack(gradients, mask, context)
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(second[0], first[0])


@pytest.mark.parametrize("dimension", [33, 1 << 14])
@pytest.mark.parametrize("name", sorted(BLIND))
def test_blind_attacks_ignore_byzantine_rows(name, dimension):
    gradients = gradients_like(4, 6, dimension)
    expected = submit(name, gradients, MASK)
    for leftover in (torch.nan, torch.inf, -1e38):
        submitted = submit(name, gradients.masked_fill(MASK[..., None], leftover), MASK)
        assert torch.equal(submitted[MASK], expected[MASK])


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("gaussian", {"std": -1}),
        ("uniform", {"high": -2.0}),
        ("uniform", {"low": 1e39}),
        ("sign_flip", {"scale": 0}),
        ("scaled", {"factor": float("inf")}),
        ("omniscient", {"factor": -1}),
        ("ipm", {"epsilon": -0.1}),
        ("alie", {"z": "paper"}),
        ("bit_flip", {"dimensions": 0}),
        ("bit_flip", {"bits": (33,)}),
        ("bit_flip", {"bits": (5, 5)}),
        ("bit_flip", {"bits": 32}),
        ("bit_flip", {"victims": "some"}),
        ("gambler", {"probability": 1.5}),
        ("gambler", {"server": 20}),
    ],
)
def test_bad_parameters_are_named(name, parameters):
    with pytest.raises(ValueError, match=f"^{next(iter(parameters))}"):
        attacks.make(name, **parameters)
