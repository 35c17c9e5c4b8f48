"""What every registered attack keeps to, whatever it does."""

from __future__ import annotations

import pytest
import torch
from attack_cases import context_for, gradients_like, mask_of, states_of, submit

from byzgym import attacks

# These do not read what Byzantine workers would send.
BLIND = {
    *("gaussian", "uniform", "random", "zero", "non_finite", "omniscient", "ipm", "alie", "sybils"),
    *("min_max", "min_sum", "fang_trimmed_mean", "mimic", "rop", "anti_clipping"),
}
# These submit their own gradients, at least in the first round.
OWN = {
    *("label_flip", "none", "replay", "backdoor", "distributed_backdoor", "neurotoxin"),
    *("leaked_qv", "missing_label"),
}
OTHERS = {
    *("adaptive", "bit_flip", "fang_krum", "gambler", "mixture", "model_replacement", "one_coordinate"),
    *("scaled", "sign_flip"),
}
BUILT_IN = {*BLIND, *OWN, *OTHERS}
ADAPTIVE = {"name": "adaptive", "against": "mean", "evaluations": 2, "task": "synthetic", "rounds": 2}
GAMBLER = {"name": "gambler", "probability": 0.3, "num_servers": 2, "factor": -3.0}
SPECS = [
    *sorted(BUILT_IN - {"adaptive"}),  # its default is a long search
    ADAPTIVE,
    {"name": "alie", "z": 1.0},
    {"name": "alie", "formula": "all_workers"},
    *({"name": name, "optimize": True} for name in ("alie", "ipm", "one_coordinate")),
    {"name": "bit_flip", "victims": "all", "dimensions": 5},
    GAMBLER,
    {**GAMBLER, "victims": "byzantine"},
    *({"name": name, "perturbation": kind} for name in ("min_max", "min_sum") for kind in ("unit", "sign")),
    {"name": "min_sum", "bound": "smallest"},
    {"name": "model_replacement", "norm": 2.0},
    {"name": "non_finite", "value": "-inf"},
]
RANDOM = [
    *("gaussian", "random", "uniform", "sybils", "fang_trimmed_mean"),
    *({"name": "bit_flip", "victims": "all"}, GAMBLER),
]
# These draw numbers for each worker, in the order of the workers.
PER_WORKER = (
    "gaussian",
    "random",
    "uniform",
    "sybils",
    "fang_trimmed_mean",
    "bit_flip",
    "gambler",
    "mixture",
    "adaptive",
)
# Their last bits depend on the number of environments, as those of matrix products do.
PRODUCTS = ("min_max", "fang_krum")
# Different numbers of Byzantine workers: some, none, all.
MASK = mask_of(6, [1, 4], [], [0, 1, 2, 3, 4, 5], [5])


def test_the_built_in_attacks_are_registered():
    assert set(attacks.names()) == BUILT_IN
    assert {name for name in BUILT_IN if not attacks.make(name).reads_own} == BLIND


def name_of(spec):
    return spec if isinstance(spec, str) else spec["name"]


@pytest.mark.parametrize("spec", SPECS, ids=str)
class TestEveryAttack:
    def test_keeps_shape_and_type(self, spec):
        for num_workers, dimension, mask in ((6, 1, MASK), (1, 4, mask_of(1, [0], []))):
            gradients = gradients_like(len(mask), num_workers, dimension)
            submitted = submit(spec, gradients, mask)
            assert (submitted.shape, submitted.dtype) == (gradients.shape, gradients.dtype)

    def test_takes_an_expanded_view(self, spec):
        gradients = gradients_like(4, 1, 33).expand(4, 6, 33)
        submitted, expected = submit(spec, gradients, MASK), submit(spec, gradients.contiguous(), MASK)
        torch.testing.assert_close(submitted, expected, rtol=0, atol=0, equal_nan=True)

    def test_a_batch_equals_its_environments_alone(self, spec):
        attack, gradients = attacks.make_from(spec), gradients_like(4, 6, 2410)
        context = context_for(gradients, seed=7)
        batch = attack(gradients, MASK, context)
        for env, (one, mask) in enumerate(zip(gradients, MASK, strict=True)):
            single = context_for(one[None], seed=7 + env)
            alone = attack(one[None], mask[None], single)[0, mask]
            tolerance = 1e-6 if name_of(spec) in PRODUCTS else 0
            torch.testing.assert_close(
                alone, batch[env, mask], rtol=tolerance, atol=tolerance, equal_nan=True
            )
            assert torch.equal(states_of(single)[0], states_of(context)[env])

    def test_extreme_sizes_do_not_give_nan(self, spec):
        for size in (1e30, 1e-30) if spec != "non_finite" else ():
            assert not submit(spec, gradients_like(4, 6, 33) * size, MASK).isnan().any()

    def test_honest_rows_stay_as_they_are(self, spec):
        if attacks.make_from(spec).scope == "workers":
            gradients = gradients_like(4, 6, 33)
            submitted = submit(spec, gradients, MASK)
            assert torch.equal(submitted[~MASK], gradients[~MASK])
            assert torch.equal(submitted[MASK], gradients[MASK]) == (name_of(spec) in OWN)

    def test_follows_a_permutation_of_the_workers(self, spec):
        if name_of(spec) not in PER_WORKER:
            gradients, order = gradients_like(4, 6, 33), torch.tensor([3, 0, 5, 1, 4, 2])
            expected = submit(spec, gradients, MASK)[:, order]
            permuted = submit(spec, gradients[:, order], MASK[:, order])
            torch.testing.assert_close(permuted, expected, rtol=1e-4, atol=1e-5, equal_nan=True)


@pytest.mark.parametrize("factor", [4, 1e30, 1e-30])
@pytest.mark.parametrize(
    "name",
    ["alie", "anti_clipping", "fang_krum", "fang_trimmed_mean", "mimic", "min_max", "min_sum", "sybils"],
)
def test_larger_gradients_give_as_much_larger_submissions(name, factor):
    gradients = gradients_like(4, 6, 33)
    scaled, submitted = submit(name, gradients * factor, MASK), submit(name, gradients, MASK)
    torch.testing.assert_close(scaled / factor, submitted, rtol=1e-4, atol=1e-5)


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
        torch.testing.assert_close(submitted[MASK], expected[MASK], rtol=0, atol=0, equal_nan=True)


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
        ("min_max", {"perturbation": "unit_vec"}),
        ("min_sum", {"perturbation": None}),
        ("fang_trimmed_mean", {"b": 0.5}),
        ("fang_krum", {"halvings": 1001}),
        ("mimic", {"warmup": 0}),
        ("mimic", {"worker": -1}),
        ("rop", {"z": "alie"}),
        ("replay", {"delay": 0}),
        ("rop", {"location": 1.5}),
        ("rop", {"reference": -0.1}),
        ("rop", {"angle": float("nan")}),
        ("one_coordinate", {"coordinate": -1}),
        ("non_finite", {"value": float("nan")}),
        ("sybils", {"noise": -1}),
        ("alie", {"formula": "n"}),
        ("alie", {"optimize": 1}),
        ("ipm", {"evaluations": 0}),
        ("one_coordinate", {"optimize": "yes"}),
        ("min_sum", {"bound": "mean"}),
        ("backdoor", {"target": -1}),
        ("backdoor", {"size": 0}),
        ("backdoor", {"value": float("nan")}),
        ("backdoor", {"fraction": 1.5}),
        ("distributed_backdoor", {"size": 0}),
        ("distributed_backdoor", {"gap": -1}),
        ("distributed_backdoor", {"shift": -1}),
        ("distributed_backdoor", {"factor": float("inf")}),
        ("model_replacement", {"norm": 0}),
        ("model_replacement", {"factor": "n"}),
        ("neurotoxin", {"kept": 0}),
        ("leaked_qv", {"leak": "all"}),
        ("missing_label", {"loss": "5"}),
        ("missing_label", {"period": 0}),
    ],
)
def test_bad_parameters_are_named(name, parameters):
    with pytest.raises(ValueError, match=f"^{next(iter(parameters))}"):
        attacks.make(name, **parameters)
