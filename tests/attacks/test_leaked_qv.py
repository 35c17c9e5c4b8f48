"""The adaptive attacks of GAA: what they look at, and how they weigh it."""

from __future__ import annotations

import pytest
import torch
from attack_cases import context_for, mask_of

from byzgym import attacks
from byzgym.attacks import LeakedQV

MASK = mask_of(3, [0, 2], [1])


def batches(size=6):
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(2, 3, size, 4, generator=generator)
    return x, torch.randint(10, (2, 3, size), generator=generator)


def context_with(number=4, **others):
    context = context_for(torch.zeros(2, 3, 5))
    generator = torch.Generator().manual_seed(1)
    samples = (
        torch.rand(2, number, 4, generator=generator),
        torch.randint(10, (2, number), generator=generator),
    )
    context.qv, context.qv_distribution = samples, (1 + samples[0], (samples[1] + 1) % 10)
    context.qv_labels = samples[1].sort(1).values
    for name, value in others.items():
        setattr(context, name, value)
    return context


def losses_of(attack, iteration, size=6):
    """The factors of L2 and L1 in an iteration, told by labels: the first half of a batch is liked."""
    context = context_with(
        round=torch.full((2,), iteration - 1), qv_labels=torch.zeros(2, 4, dtype=torch.int64)
    )
    x, y = batches(size)
    y[..., : size // 2], y[..., size // 2 :] = 0, 1
    weights = attack.poison(x, y, MASK, context)[2]
    return (weights[0, 0, : size // 2].mean() / 2).item(), (weights[0, 0, size // 2 :].mean() / 2).item()


@pytest.mark.parametrize(
    ("loss", "iteration", "expected"),
    [
        ("1", 1, (10, -1)),
        (1, 9999, (10, -1)),
        ("2", 1000, (1, 0)),
        ("2", 1001, (2, -1)),
        ("2n", 4000, (1, 0)),
        ("2n", 4001, (2, -1)),
        ("3", 995, (1, 0)),
        ("3", 996, (0, -1)),
        ("3", 999, (0, -1)),
        ("3", 1000, (1, 0)),
        ("3", 1997, (0, -1)),
        ("4", 5000, (1, 0)),
    ],
)
def test_the_losses(loss, iteration, expected):
    assert losses_of(attacks.make("missing_label", loss=loss), iteration) == pytest.approx(expected)


def test_another_period():
    attack = attacks.make("missing_label", loss="2", period=3)
    assert losses_of(attack, 3) == pytest.approx((1, 0))
    assert losses_of(attack, 4) == pytest.approx((2, -1))


def test_missing_labels_against_a_loop():
    x, y = batches()
    context = context_with()
    same_x, same_y, weights = attacks.make("missing_label").poison(x, y, MASK, context)
    assert same_x is x
    assert same_y is y
    for env in range(2):
        known = set(context.qv[1][env].tolist())
        for worker in range(3):
            liked = [label in known for label in y[env, worker].tolist()]
            number = sum(liked)
            expected = [10 * 6 / number if like else -6 / (6 - number) for like in liked]
            torch.testing.assert_close(weights[env, worker], torch.tensor(expected))


def test_without_missing_labels_it_is_the_loss_on_the_known_ones():
    context = context_with(qv_labels=torch.arange(10).expand(2, -1))
    x, y = batches()
    assert (attacks.make("missing_label").poison(x, y, MASK, context)[2] == 10).all()
    none = context_with(qv_labels=torch.full((2, 4), 9))
    y = y.clamp(max=8)
    assert (attacks.make("missing_label").poison(x, y, MASK, none)[2] == -1).all()


@pytest.mark.parametrize(("leak", "field"), [("samples", "qv"), ("distribution", "qv_distribution")])
def test_leaked_samples_are_in_the_batch(leak, field):
    context, (x, y) = context_with(3), batches()
    mixed_x, mixed_y, weights = attacks.make("leaked_qv", leak=leak).poison(x, y, MASK, context)
    leaked_x, leaked_y = getattr(context, field)
    for env, worker in MASK.nonzero().tolist():
        assert torch.equal(mixed_x[env, worker, :3], leaked_x[env])
        assert torch.equal(mixed_y[env, worker, :3], leaked_y[env])
        assert torch.equal(mixed_x[env, worker, 3:], x[env, worker, 3:])
        assert weights[env, worker].tolist() == pytest.approx([20, 20, 20, -2, -2, -2])


def test_some_are_drawn_where_there_are_too_many():
    (x, y), seen = batches(), set()
    context = context_with(5)
    for _ in range(20):
        mixed_x = attacks.make("leaked_qv").poison(x, y, MASK, context)[0]
        rows = [(context.qv[0][0] == row).all(1).nonzero().item() for row in mixed_x[0, 0, :3]]
        assert len(set(rows)) == 3
        seen |= set(rows)
    assert seen == {0, 1, 2, 3, 4}
    assert torch.equal(mixed_x[0, 0, 3:], x[0, 0, 3:])
    one_x, _, weights = attacks.make("leaked_qv").poison(*batches(1), MASK, context)
    assert one_x.shape[2] == 1
    assert (weights == 10).all()


def test_what_each_asks_for():
    assert LeakedQV("labels").knowledge == {"qv_labels"}
    assert LeakedQV("distribution").knowledge == {"qv_distribution"}
    assert LeakedQV("samples").knowledge == {"qv"}
    for leak in ("labels", "distribution", "samples"):
        with pytest.raises(ValueError, match=r"^the context must hold qv"):
            LeakedQV(leak).poison(*batches(), MASK, context_for(torch.zeros(2, 3, 5)))
