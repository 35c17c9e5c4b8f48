"""The base classes and the context."""

from __future__ import annotations

import pytest
import torch
from attack_cases import context_for, gradients_like, mask_of, states_of

from byzgym import attacks
from byzgym.attacks import Attack, AttackContext

MASK = mask_of(6, [1, 4], [], [0, 1, 2, 3, 4, 5], [5])


def given():
    gradients = gradients_like(4, 6, 33)
    return gradients, MASK, context_for(gradients)


def test_partial_draws_leave_other_generators():
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


def test_each_context_has_a_memory_of_its_own():
    class Replay(Attack):
        """Sends the honest gradients of the round before."""

        def corrupt(self, gradients, byzantine, context):
            last = context.memory.read("last", *gradients.shape[1:])
            context.memory.write("last", gradients)
            return last

    gradients, everybody = gradients_like(2, 3, 4), torch.ones(2, 3, dtype=torch.bool)
    context, other = context_for(gradients), context_for(gradients)
    assert not Replay()(gradients, everybody, context).any()
    assert torch.equal(Replay()(2 * gradients, everybody, context), gradients)
    assert not Replay()(gradients, everybody, other).any()


def test_an_override_does_not_inherit_reads_own():
    class Peeking(attacks.InnerProductManipulation):
        def corrupt(self, gradients, byzantine, context):
            return -gradients

    class Calling(attacks.Zero):
        def __call__(self, gradients, byzantine, context):
            return gradients

    class Promising(Peeking):
        reads_own = False

    class Renamed(attacks.InnerProductManipulation):
        """Changes nothing that matters."""

    assert [cls.reads_own for cls in (Peeking, Calling, Promising, Renamed)] == [True, True, False, False]


def test_users_register_any_callable():
    attacks.register("mine", lambda strength=1: lambda gradients, byzantine, context: -strength * gradients)
    gradients = gradients_like(1, 3, 4)
    submitted = attacks.make_from("mine:strength=2")(gradients, None, None)
    assert torch.equal(submitted, -2 * gradients)


def test_repr_shows_the_parameters():
    assert repr(attacks.make("uniform", low=0.5)) == "Uniform(low=0.5, high=1.0)"
    assert repr(attacks.make("zero")) == "Zero()"

    class Mine(Attack):
        def __init__(self, direction, *rest, **parameters):
            self.direction = direction

    assert len(repr(Mine(torch.ones(1000)))) < 60


@pytest.mark.parametrize("scope", ["workers", "transmission"])
def test_submissions_get_the_shape_of_gradients(scope):
    class Common(Attack):
        def corrupt(self, gradients, byzantine, context):
            return gradients[:, :1].double()

    class Same(Attack):
        def corrupt(self, gradients, byzantine, context):
            return gradients

    Common.scope = Same.scope = scope
    gradients, _, context = given()
    submitted = Common()(gradients, MASK, context)
    assert (submitted.shape, submitted.dtype) == (gradients.shape, gradients.dtype)
    assert torch.equal(submitted[MASK], gradients[:, :1].expand_as(gradients)[MASK])
    Same()(gradients, MASK, context).zero_()
    assert gradients.all()


@pytest.mark.parametrize(
    "returned",
    [torch.zeros(3, 2, 5, 7), torch.zeros(4, 6, 33).to_sparse(), torch.zeros(33) * 1j, [0.0] * 33],
    ids=["shape", "sparse", "complex", "list"],
)
def test_what_is_no_submission_is_refused(returned):
    class Wrong(Attack):
        def corrupt(self, gradients, byzantine, context):
            return returned

    with pytest.raises(
        ValueError, match=r"attack Wrong\(\) must return a tensor of real numbers of shape \(4, 6, 33\)"
    ):
        Wrong()(*given())


GRADIENTS, NOBODY = torch.ones(2, 5, 3), torch.zeros(2, 5, dtype=torch.bool)


@pytest.mark.parametrize(
    ("gradients", "byzantine", "argument"),
    [
        (GRADIENTS, NOBODY.byte(), "byzantine"),
        (GRADIENTS, NOBODY[0], "byzantine"),
        (GRADIENTS, NOBODY.tolist(), "byzantine"),
        (GRADIENTS, NOBODY.to_sparse(), "byzantine"),
        (GRADIENTS[0], NOBODY[0], "gradients"),
        (GRADIENTS.long(), NOBODY, "gradients"),
        (GRADIENTS.tolist(), NOBODY, "gradients"),
        (GRADIENTS.to_sparse(), NOBODY, "gradients"),
    ],
)
def test_what_an_attack_is_given_is_checked(gradients, byzantine, argument):
    context = AttackContext.standalone(GRADIENTS)
    with pytest.raises((TypeError, ValueError), match=argument):
        attacks.make("ipm")(gradients, byzantine, context)
    if argument == "gradients":
        with pytest.raises((TypeError, ValueError), match=argument):
            AttackContext.standalone(gradients)
