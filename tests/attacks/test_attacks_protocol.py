"""What every attack must keep to, whatever it does."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest
import torch
from attack_cases import alone, context_for, gradients_like, mask_of, states_of

from byzgym import attacks
from byzgym.attacks import Attack, AttackContext, DataPoisoning

BUILT_IN = [
    "alie",
    "bit_flip",
    "gambler",
    "gaussian",
    "ipm",
    "label_flip",
    "none",
    "omniscient",
    "random",
    "scaled",
    "sign_flip",
    "uniform",
    "zero",
]
SPECS = [
    *BUILT_IN,
    {"name": "alie", "z": 1.0},
    {"name": "bit_flip", "victims": "all", "dimensions": 5},
    {"name": "gambler", "probability": 0.3, "num_servers": 2, "factor": -3.0},
    {"name": "gambler", "probability": 0.3, "num_servers": 2, "factor": -3.0, "victims": "byzantine"},
]
RANDOM = [
    "gaussian",
    "random",
    "uniform",
    {"name": "bit_flip", "victims": "all"},
    {"name": "gambler", "probability": 0.3, "num_servers": 1, "factor": -3.0},
]
# Different numbers of Byzantine workers: some, none, all.
MASK = mask_of(6, [1, 4], [], [0, 1, 2, 3, 4, 5], [5])


def submit(spec, gradients, mask, context):
    return attacks.make_from(spec)(gradients, mask, context)


def test_the_built_in_attacks_are_registered():
    assert set(BUILT_IN) <= set(attacks.names())


@pytest.mark.parametrize("spec", SPECS, ids=str)
class TestEveryAttack:
    def test_keeps_shape_and_type(self, spec):
        for dimension in (1, 33):
            gradients = gradients_like(4, 6, dimension)
            submitted = submit(spec, gradients, MASK, context_for(gradients))
            assert submitted.shape == gradients.shape
            assert submitted.dtype == gradients.dtype

    def test_does_not_write_into_its_input(self, spec):
        gradients, mask = gradients_like(4, 6, 33), MASK.clone()
        before = gradients.clone()
        submit(spec, gradients, mask, context_for(gradients))
        assert torch.equal(gradients, before)
        assert torch.equal(mask, MASK)

    def test_takes_an_expanded_view(self, spec):
        gradients = gradients_like(4, 1, 33).expand(4, 6, 33)
        submitted = submit(spec, gradients, MASK, context_for(gradients))
        dense = submit(spec, gradients.contiguous(), MASK, context_for(gradients))
        assert torch.equal(submitted, dense)

    def test_equal_generators_give_equal_submissions(self, spec):
        gradients = gradients_like(4, 6, 33)
        first, second = (submit(spec, gradients, MASK, context_for(gradients, seed=3)) for _ in range(2))
        assert torch.equal(first, second)

    @pytest.mark.parametrize("dimension", [33, 2410])
    def test_an_environment_of_a_batch_equals_the_same_one_alone(self, spec, dimension):
        gradients = gradients_like(4, 6, dimension)
        context = context_for(gradients)
        states = states_of(context)
        batch = submit(spec, gradients, MASK, context)
        for env in range(4):
            single = alone(context, env, states)
            one, mask = gradients[env : env + 1], MASK[env : env + 1]
            submitted = submit(spec, one, mask, single)
            assert torch.equal(submitted[mask], batch[env : env + 1][mask])
            assert torch.equal(single.generators[0].get_state(), context.generators[env].get_state())

    def test_leaves_the_global_generator_alone(self, spec):
        gradients = gradients_like(4, 6, 33)
        context = context_for(gradients)
        before = torch.random.get_rng_state()
        submit(spec, gradients, MASK, context)
        assert torch.equal(torch.random.get_rng_state(), before)

    @pytest.mark.parametrize("size", [1e30, 1e-30])
    def test_extreme_sizes_do_not_crash(self, spec, size):
        gradients = gradients_like(4, 6, 33) * size
        submitted = submit(spec, gradients, MASK, context_for(gradients))
        assert submitted.shape == gradients.shape
        assert not submitted.isnan().any()

    def test_nobody_and_everybody_may_be_byzantine_among_many_workers(self, spec):
        gradients = gradients_like(2, 60, 5)
        mask = mask_of(60, [], list(range(60)))
        submitted = submit(spec, gradients, mask, context_for(gradients))
        assert submitted.shape == gradients.shape

    def test_one_worker(self, spec):
        gradients = gradients_like(2, 1, 4)
        submitted = submit(spec, gradients, mask_of(1, [0], []), context_for(gradients))
        assert submitted.shape == gradients.shape


@pytest.mark.parametrize("spec", RANDOM, ids=str)
def test_random_attacks_differ_between_rounds_and_environments(spec):
    gradients = gradients_like(1, 6, 33).expand(2, 6, 33)
    context = context_for(gradients)
    mask = mask_of(6, [0, 1, 2], [0, 1, 2])
    first = submit(spec, gradients, mask, context)
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(submit(spec, gradients, mask, context)[0], first[0])


@pytest.mark.parametrize(
    "spec", [spec for spec in SPECS if attacks.make_from(spec).scope == "workers"], ids=str
)
def test_honest_rows_are_returned_as_they_came_and_in_a_tensor_of_its_own(spec):
    gradients = gradients_like(4, 6, 33)
    submitted = submit(spec, gradients, MASK, context_for(gradients))
    assert torch.equal(submitted[~MASK], gradients[~MASK])
    assert torch.equal(submitted[MASK], gradients[MASK]) == (spec in ("none", "label_flip"))
    submitted.zero_()
    assert gradients.any()


@pytest.mark.parametrize("name", ["ipm", "alie", "omniscient", "zero"])
def test_common_submissions_are_computed_once(name):
    gradients = gradients_like(4, 6, 33)
    common = attacks.make(name).corrupt(gradients, MASK, context_for(gradients))
    assert common.shape == (4, 1, 33)
    submitted = submit(name, gradients, MASK, context_for(gradients))
    assert torch.equal(submitted[MASK], common.expand_as(gradients)[MASK])


def test_a_subclass_may_answer_for_all_rows_itself():
    class Mine(attacks.SignFlip):
        def __call__(self, gradients, byzantine, context):
            return 2 * super().__call__(gradients, byzantine, context)

    class Own(Attack):
        def __call__(self, gradients, byzantine, context):
            return 3 * gradients

    class Blind(attacks.Zero):
        def __call__(self, gradients, byzantine, context):
            return gradients

    gradients = gradients_like(4, 6, 33)
    arguments = gradients, MASK, context_for(gradients)
    assert torch.equal(Mine()(*arguments), torch.where(MASK[..., None], -2 * gradients, 2 * gradients))
    assert torch.equal(Own()(*arguments), 3 * gradients)
    assert Blind.reads_own


def test_an_attack_without_corrupt_says_so():
    class Nothing(Attack):
        pass

    gradients = gradients_like(4, 6, 33)
    with pytest.raises(NotImplementedError, match="Nothing must define corrupt"):
        Nothing()(gradients, MASK, context_for(gradients))


@pytest.mark.parametrize("name", ["ipm", "alie", "omniscient", "zero"])
def test_with_nobody_honest_the_common_submission_is_zero(name):
    gradients = gradients_like(1, 6, 33)
    submitted = submit(name, gradients, mask_of(6, list(range(6))), context_for(gradients))
    assert (submitted == 0).all()


def test_only_data_poisoning_has_a_poison_method():
    for name in BUILT_IN:
        attack = attacks.make(name)
        assert isinstance(attack, Attack)
        assert isinstance(attack, DataPoisoning) == (name == "label_flip")


def test_users_register_any_callable():
    def mine(gradients, byzantine, context):
        return torch.where(byzantine[..., None], -gradients, gradients)

    attacks.register("mine_of_test", lambda **parameters: mine)
    assert "mine_of_test" in attacks.names()
    gradients = gradients_like(1, 3, 4)
    submitted = attacks.make("mine_of_test", strength=2)(gradients, mask_of(3, [0]), context_for(gradients))
    assert torch.equal(submitted[0, 0], -gradients[0, 0])
    assert torch.equal(submitted[0, 1:], gradients[0, 1:])


def test_built_in_names_cannot_be_replaced():
    with pytest.raises(ValueError, match="'alie' is built in"):
        attacks.register("alie", attacks.NoAttack)


def test_unknown_names_and_parameters_are_explained():
    with pytest.raises(ValueError, match="unknown attack 'alies'; known: alie, bit_flip"):
        attacks.make("alies")
    with pytest.raises(TypeError, match=r"its parameters: epsilon"):
        attacks.make("ipm", factor=2)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"name": "gaussian", "std": -1}, "std must be a finite number of at least 0.*got -1"),
        ({"name": "gaussian", "mean": float("nan")}, "mean must be a finite number.*got nan"),
        ({"name": "random", "std": "big"}, "std must be .*got 'big'"),
        ({"name": "uniform", "low": 2.0}, "high must be a finite number from 2.0 to 3.4.*e.38, got 1.0"),
        ({"name": "uniform", "low": 1e39, "high": 1e39}, "low must be .* to 3.4.*e.38, got 1e.39"),
        ({"name": "sign_flip", "scale": 0}, "scale must be a finite number greater than 0, got 0"),
        ({"name": "scaled", "factor": float("inf")}, "factor must be a finite number, got inf"),
        ({"name": "omniscient", "factor": -1}, "factor must be .* greater than 0, got -1"),
        ({"name": "ipm", "epsilon": -0.1}, "epsilon must be .* at least 0, got -0.1"),
        ({"name": "alie", "z": "paper"}, "z .*must be a finite number, got 'paper'"),
        ({"name": "alie", "compiled": 1}, "compiled must be True or False, got 1"),
        ({"name": "bit_flip", "dimensions": 0}, "dimensions must be an integer of at least 1, got 0"),
        ({"name": "bit_flip", "bits": (0,)}, "bits .* from 1 to 32, got 0"),
        ({"name": "bit_flip", "bits": (33,)}, "bits .* from 1 to 32, got 33"),
        ({"name": "bit_flip", "bits": (5, 5)}, "bits must be .*distinct"),
        ({"name": "bit_flip", "bits": ()}, "bits must be at least one"),
        ({"name": "bit_flip", "bits": 32}, "bits must be a sequence"),
        ({"name": "bit_flip", "victims": "some"}, "victims must be one of 'byzantine', 'all', got 'some'"),
        ({"name": "gambler", "probability": 1.5}, "probability must be .* from 0 to 1, got 1.5"),
        ({"name": "gambler", "num_servers": 0}, "num_servers must be .* at least 1, got 0"),
        ({"name": "gambler", "server": 20}, "server must be an integer from 0 to 19, got 20"),
        ({"name": "gambler", "victims": None}, "victims must be one of"),
    ],
    ids=str,
)
def test_bad_parameters_are_named(spec, message):
    with pytest.raises(ValueError, match=message):
        attacks.make_from(spec)


def test_the_package_uses_no_other_part_of_byzgym():
    allowed = ("byzgym.attacks", "byzgym.compilation", "byzgym.registry", "byzgym.validation")
    imported = set()
    for path in Path(attacks.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add(node.module)
    assert {name for name in imported if name.startswith("byzgym")} >= set(allowed)
    others = {name for name in imported if not name.startswith(allowed)}
    assert {name.partition(".")[0] for name in others} <= {*sys.stdlib_module_names, "torch"}


def test_partial_draws_leave_the_other_generators_alone():
    context = AttackContext.standalone(torch.zeros(3, 2, 4))
    before = states_of(context)
    drawing = torch.tensor([False, True, False])
    for draw in (
        lambda: context.uniform(5, where=drawing),
        lambda: context.normal(5, where=drawing),
        lambda: context.integers(50, 5, where=drawing),
    ):
        out = draw()
        assert (out[[0, 2]] == 0).all()
        assert (out[1] != 0).any()
    after = states_of(context)
    assert [torch.equal(a, b) for a, b in zip(before, after, strict=True)] == [True, False, True]


@pytest.mark.parametrize("scope", ["workers", "transmission"])
def test_what_is_submitted_has_the_shape_and_type_of_the_gradients(scope):
    class Common(Attack):
        def corrupt(self, gradients, byzantine, context):
            return gradients[:, :1].double()

    class Same(Attack):
        def corrupt(self, gradients, byzantine, context):
            return gradients

    class Wrong(Attack):
        def corrupt(self, gradients, byzantine, context):
            return gradients.new_zeros(3, 2, 5, 7)

    Common.scope = Same.scope = Wrong.scope = scope
    gradients = gradients_like(4, 6, 33)
    submitted = Common()(gradients, MASK, context_for(gradients))
    assert (submitted.shape, submitted.dtype) == (gradients.shape, gradients.dtype)
    expected = gradients[:, :1].expand_as(gradients)
    assert torch.equal(submitted[MASK], expected[MASK])
    Same()(gradients, MASK, context_for(gradients)).zero_()
    assert gradients.all()
    with pytest.raises(ValueError, match=r"attack .*Wrong.* \(4, 6, 33\), got \(3, 2, 5, 7\)"):
        Wrong()(gradients, MASK, context_for(gradients))


def test_noise_leaves_nothing_in_honest_rows():
    gradients = torch.full((4, 6, 33), torch.nan)
    for name in ("gaussian", "uniform", "random"):
        noise = attacks.make(name).corrupt(gradients, MASK, context_for(gradients))
        assert (noise[~MASK] == 0).all()


def test_uniform_noise_no_wider_than_the_type():
    with pytest.raises(ValueError, match="high - low must be a finite number of at most"):
        attacks.make("uniform", low=-3e38, high=3e38)
    attacks.make("uniform", low=-1e38, high=1e38)


@pytest.mark.parametrize("name", ["ipm", "alie", "gaussian", "bit_flip"])
@pytest.mark.parametrize(
    ("gradients", "byzantine", "error", "message"),
    [
        (
            torch.ones(2, 5, 3),
            torch.zeros(2, 5, dtype=torch.uint8),
            ValueError,
            "byzantine must be bool of shape",
        ),
        (
            torch.ones(2, 5, 3),
            torch.zeros(5, dtype=torch.bool),
            ValueError,
            "byzantine must be bool of shape",
        ),
        (torch.ones(2, 5, 3), [[True] * 5] * 2, TypeError, "byzantine must be a tensor, got list"),
        (
            torch.ones(5, 3),
            torch.zeros(5, dtype=torch.bool),
            ValueError,
            "gradients must be floating point of",
        ),
        (
            torch.ones(2, 5, 3).long(),
            torch.zeros(2, 5, dtype=torch.bool),
            ValueError,
            "got torch.int64 of shape",
        ),
    ],
)
def test_what_an_attack_is_given_is_checked(name, gradients, byzantine, error, message):
    context = AttackContext.standalone(torch.ones(2, 5, 3))
    with pytest.raises(error, match=message):
        attacks.make(name)(gradients, byzantine, context)
