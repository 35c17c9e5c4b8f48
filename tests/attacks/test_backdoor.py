"""Backdoors: where the trigger goes, whose data it is in, and what is submitted."""

from __future__ import annotations

import pytest
import torch
from attack_cases import context_for, gradients_like, mask_of

from byzgym import attacks

CONTEXT = context_for(torch.zeros(2, 5, 3))
MASK = mask_of(5, [1, 3], [0, 1, 2, 3, 4])
BACKDOORS = ("backdoor", "distributed_backdoor", "model_replacement", "neurotoxin")


def images(*shape):
    """Batches [2, 5, 8, *shape] with their labels."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(2, 5, 8, *shape, generator=generator)
    return x, torch.randint(10, (2, 5, 8), generator=generator)


@pytest.mark.parametrize("name", BACKDOORS)
@pytest.mark.parametrize("shape", [(1, 12, 12), (3, 12, 14), (12, 12), (20,)])
def test_only_byzantine_data_is_triggered(name, shape):
    x, y = images(*shape)
    before = x.clone(), y.clone()
    attack = attacks.make(name, target=7, fraction=0.5)
    poisoned_x, poisoned_y = attack.poison(x, y, MASK, CONTEXT)
    assert torch.equal(x, before[0])
    assert torch.equal(y, before[1])
    assert torch.equal(poisoned_x[~MASK], x[~MASK])
    assert torch.equal(poisoned_y[~MASK], y[~MASK])
    assert (poisoned_y[MASK][:, :4] == 7).all()
    assert torch.equal(poisoned_x[MASK][:, 4:], x[MASK][:, 4:])
    assert torch.equal(poisoned_y[MASK][:, 4:], y[MASK][:, 4:])
    changed = (poisoned_x[MASK][:, :4] != x[MASK][:, :4]).flatten(2).any(2)
    assert changed.all()


def test_the_pattern_is_the_top_left_square():
    x, y = images(3, 12, 14)
    poisoned = attacks.make("backdoor", size=4, value=9.0).poison(x, y, MASK, CONTEXT)[0]
    changed = poisoned[0, 1, 0] == 9
    assert changed.sum() == 3 * 16
    assert changed[:, :4, :4].all()
    x, y = images(20)
    changed = attacks.make("backdoor", value=9.0).poison(x, y, MASK, CONTEXT)[0][0, 1, 0] == 9
    assert changed.nonzero()[:, 0].tolist() == [0, 1, 2, 3, 4]


def test_without_a_value_it_is_the_largest_of_the_workers_batch():
    x, y = images(1, 12, 12)
    poisoned = attacks.make("backdoor").poison(x, y, MASK, CONTEXT)[0]
    for worker in (1, 3):
        assert (poisoned[0, worker, 0, :, :5, :5] == x[0, worker].amax()).all()


@pytest.mark.parametrize(("fraction", "expected"), [(0, 0), (0.01, 1), (20 / 64, 2), (0.5, 4), (1, 8)])
def test_how_many_samples_are_triggered(fraction, expected):
    x, y = images(1, 12, 12)
    labels = attacks.make("backdoor", fraction=fraction, target=3).poison(
        x, torch.zeros_like(y), MASK, CONTEXT
    )[1]
    assert ((labels == 3).sum(2)[MASK] == expected).all()


def test_the_parts_of_the_distributed_trigger():
    """They are those of the authors' parameters for MNIST and CIFAR-10."""
    mnist = attacks.make("distributed_backdoor").parts((1, 28, 28))
    starts = [(0, 0), (0, 6), (3, 0), (3, 6)]
    for part, (row, column) in zip(mnist, starts, strict=True):
        assert part[0].nonzero().tolist() == [[row, column + k] for k in range(4)]
    cifar = attacks.make("distributed_backdoor", size=6, gap=3).parts((3, 32, 32))
    for part, (row, column) in zip(cifar, [(0, 0), (0, 9), (4, 0), (4, 9)], strict=True):
        assert part[2].nonzero().tolist() == [[row, column + k] for k in range(6)]
        assert torch.equal(part[0], part[2])
    shifted = attacks.make("distributed_backdoor", size=2, shift=1, gap=0).parts((6, 6))
    assert shifted[3].nonzero().tolist() == [[2, 3], [2, 4]]
    numbers = attacks.make("distributed_backdoor", shift=3).parts((20,))
    assert [part.nonzero()[:, 0].tolist()[0] for part in numbers] == [3, 7, 11, 15]
    assert attacks.make("distributed_backdoor").parts((1, 8, 8))[1][0].nonzero().tolist() == [
        [0, 5],
        [0, 6],
        [0, 7],
    ]


def test_byzantine_workers_take_the_parts_in_turn():
    x, y = images(1, 12, 12)
    attack = attacks.make("distributed_backdoor", value=9.0)
    poisoned = attack.poison(x, y, MASK, CONTEXT)[0]
    parts = attack.parts((1, 12, 12))
    found = [[(poisoned[env, worker, 0] == 9) for worker in range(5)] for env in range(2)]
    assert torch.equal(found[0][1], parts[0])
    assert torch.equal(found[0][3], parts[1])
    assert all(torch.equal(found[1][worker], parts[worker % 4]) for worker in range(5))
    whole = attack.trigger(x[0, 0])
    assert torch.equal((whole == 9).all(0), torch.stack(parts).any(0))


def test_the_whole_trigger_for_measuring():
    x = torch.arange(2 * 36.0).view(2, 1, 6, 6)
    triggered = attacks.make("backdoor", size=2).trigger(x)
    assert (triggered[:, 0, :2, :2] == 71).all()
    assert torch.equal(triggered[:, 0, 2:], x[:, 0, 2:])
    assert torch.equal(x, torch.arange(2 * 36.0).view(2, 1, 6, 6))


def test_model_replacement_scales():
    gradients = gradients_like(2, 5, 30)
    context = context_for(gradients)

    def sent(**parameters):
        return attacks.make("model_replacement", **parameters)(gradients, MASK, context)

    torch.testing.assert_close(sent()[0, 1], gradients[0, 1] * 5 / 2)
    torch.testing.assert_close(sent()[1], gradients[1])
    torch.testing.assert_close(sent(factor=100)[0, 3], gradients[0, 3] * 100)
    torch.testing.assert_close(sent(norm=2.5)[MASK].norm(dim=1), torch.full((7,), 2.5))
    zero = attacks.make("model_replacement", norm=1)(0 * gradients, MASK, context)
    assert not zero.any()
    with pytest.raises(ValueError, match=r"norm must be None where there is a factor"):
        attacks.make("model_replacement", norm=1, factor=1)


def test_replacement_moves_the_mean_to_the_attackers_model():
    """What all honest workers have agreed on, near convergence, is zero."""
    gradients = torch.zeros(1, 5, 3)
    gradients[0, [1, 3]] = torch.tensor([1.0, -2.0, 3.0])
    sent = attacks.make("model_replacement")(gradients, MASK[:1], context_for(gradients))
    torch.testing.assert_close(sent.mean(1)[0], torch.tensor([1.0, -2.0, 3.0]))


def test_the_distributed_backdoor_may_scale():
    gradients = gradients_like(2, 5, 30)
    attack = attacks.make("distributed_backdoor", factor=100)
    torch.testing.assert_close(attack(gradients, MASK, CONTEXT)[MASK], 100 * gradients[MASK])


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.95, 1.0])
def test_neurotoxin_against_a_loop(kept):
    gradients = gradients_like(2, 5, 40)
    context = context_for(gradients)
    context.previous_update = gradients_like(2, 40, 1, seed=3)[..., 0]
    sent = attacks.make("neurotoxin", kept=kept)(gradients, MASK, context)
    for env in range(2):
        order = sorted(range(40), key=lambda j, env=env: -abs(float(context.previous_update[env, j])))
        dropped = order[: 40 - int(kept * 40)]
        expected = gradients[env].clone()
        expected[:, dropped] = 0
        assert torch.equal(sent[env, MASK[env]], expected[MASK[env]])


def test_neurotoxin_keeps_all_in_the_first_round():
    gradients = gradients_like(2, 5, 40)
    sent = attacks.make("neurotoxin", kept=0.1)(gradients, MASK, context_for(gradients))
    assert torch.equal(sent, gradients)


@pytest.mark.parametrize(
    ("name", "parameters", "shape", "message"),
    [
        ("backdoor", {"size": 5}, (1, 5, 9), r"^size must be from 1 to 4 for .* \(1, 5, 9\), got 5"),
        ("backdoor", {"size": 20}, (20,), r"^size must be from 1 to 19 for"),
        ("distributed_backdoor", {"size": 4}, (1, 8, 8), r"^size must be from 1 to 3 for"),
        ("distributed_backdoor", {"gap": 30}, (1, 28, 28), r"^gap and shift must .* got gap=30 and shift=0"),
        ("distributed_backdoor", {"shift": 26}, (1, 28, 28), r"^gap and shift must .* and shift=26"),
        ("distributed_backdoor", {}, (3,), r"^gap and shift must leave room .* \(3,\)"),
    ],
)
def test_a_trigger_must_fit(name, parameters, shape, message):
    x, y = images(*shape)
    with pytest.raises(ValueError, match=message):
        attacks.make(name, **parameters).poison(x, y, MASK, CONTEXT)


def test_the_target_must_be_a_class():
    x, y = images(1, 12, 12)
    with pytest.raises(ValueError, match=r"target must be an integer from 0 to 9, got 10"):
        attacks.make("backdoor", target=10).poison(x, y, MASK, CONTEXT)
