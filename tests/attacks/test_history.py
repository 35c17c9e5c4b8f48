"""Mimic, replay and ROP over several rounds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from attack_cases import context_for, gradients_like, mask_of

from byzgym import attacks

MASK = mask_of(6, [1, 4], [5], [0, 2, 3])


def rounds_of(number, num_envs=3, num_workers=6, dimension=40):
    """Honest gradients of some rounds, in which workers differ in the same way each time."""
    workers = 0.5 * gradients_like(num_envs, num_workers, dimension, seed=100)
    return [gradients_like(num_envs, num_workers, dimension, seed) + workers for seed in range(number)]


# Mimic


class SlowMimic:
    """One environment, with loops over workers and double precision."""

    def __init__(self, warmup, seed):
        self.warmup, self.generator, self.t = warmup, torch.Generator().manual_seed(seed), 0

    def __call__(self, rows, byzantine):
        good = [i for i in range(len(rows)) if not byzantine[i]]
        t = self.t
        if t == 0:
            noise = torch.empty(rows.shape[1]).normal_(generator=self.generator).double().numpy()
            self.mean, self.z = 0.0, noise
        if t < self.warmup:
            self.mean = t / (t + 1) * self.mean + sum(rows[i] for i in good) / len(good) / (t + 1)
            total = np.zeros(rows.shape[1])
            for i in good:
                total += (rows[i] - self.mean) @ self.z * (rows[i] - self.mean)
            self.z = t / (t + 1) * self.z + total / np.linalg.norm(total) / (t + 1)
            self.z = self.z / np.linalg.norm(self.z)
        if t < self.warmup or byzantine[self.target]:
            self.target = max(good, key=lambda i: rows[i] @ self.z)
        self.t += 1
        return rows[self.target]


@pytest.mark.parametrize("warmup", [1, 4, 6, 50])
def test_mimic_against_loops(warmup):
    rounds = rounds_of(9)
    attack, context, mask = attacks.make("mimic", warmup=warmup), context_for(rounds[0]), MASK
    references = [SlowMimic(warmup, 7 + env) for env in range(3)]
    copied = []
    for number, gradients in enumerate(rounds):
        if number == 6:  # those who are copied become Byzantine
            turned = mask_of(6, *[[reference.target] for reference in references])
            mask = MASK | turned
        submitted = attack(gradients, mask, context)
        direction = context.memory.read("mimic_direction", 40)
        for env, reference in enumerate(references):
            expected = reference(gradients[env].double().numpy(), mask[env].numpy())
            np.testing.assert_allclose(direction[env], reference.z, atol=1e-5)
            for worker in mask[env].nonzero()[:, 0].tolist():
                np.testing.assert_allclose(submitted[env, worker], expected, rtol=1e-6)
        copied.append([reference.target for reference in references])
    assert (copied[0] == copied[5]) == (warmup == 1)


def test_mimic_finds_a_worker_that_differs():
    # Two workers deviate in opposite directions, since the noise at first decides the sign of z.
    gradients, odd = gradients_like(4, 8, 300), [(2, 5), (3, 4), (6, 2), (7, 6)]
    for env, pair in enumerate(odd):
        gradients[env, pair[0]] += 2 * gradients[env, 0]
        gradients[env, pair[1]] -= 2 * gradients[env, 0]
    attack, mask, context = attacks.make("mimic"), mask_of(8, *[[0, 1]] * 4), context_for(gradients)
    for _ in range(6):
        submitted = attack(gradients, mask, context)
    for env, pair in enumerate(odd):
        copied = (gradients[env, 2:] == submitted[env, 0]).all(-1).nonzero().item() + 2
        assert copied in pair
        direction = context.memory.read("mimic_direction", 300)[env]
        assert torch.cosine_similarity(direction, gradients[env, 0], dim=0).abs() > 0.9


def test_mimic_replaces_a_worker_that_becomes_byzantine():
    rounds = rounds_of(6, num_envs=1)
    attack, context = attacks.make("mimic", warmup=1), context_for(rounds[0])
    mask = mask_of(6, [1])

    def target(gradients, mask):
        submitted = attack(gradients, mask, context)[0, mask[0]][0]
        return int((gradients[0] == submitted).all(-1).nonzero())

    first = target(rounds[0], mask)
    assert target(rounds[1], mask) == first
    turned = mask_of(6, [1, first])
    second = target(rounds[2], turned)
    direction = context.memory.read("mimic_direction", 40)[0]
    along = (rounds[2][0] @ direction).masked_fill(turned[0], -torch.inf)
    assert second == along.argmax()
    assert target(rounds[3], mask) == second  # although the first is honest again


def test_mimic_of_a_fixed_worker():
    gradients = gradients_like(4, 5, 7)
    mask = mask_of(5, [0, 2], [4], [0, 1, 2, 3], [0, 1, 2, 3, 4])
    context = context_for(gradients)
    submitted = attacks.make("mimic", worker=1)(gradients, mask, context)
    for env, copied in enumerate([3, 1, 4]):  # the third has one honest worker only
        assert (submitted[env, mask[env]] == gradients[env, copied]).all()
    assert not submitted[3].any()
    assert not context.memory.state()


def test_mimic_of_equal_rows_and_of_nobody_is_finite():
    gradients = gradients_like(3, 1, 20).repeat(1, 4, 1)
    gradients[2] = torch.nan
    attack, context = attacks.make("mimic"), context_for(gradients)
    mask = mask_of(4, [0], [0, 1, 2], [0, 1, 2, 3])
    for _ in range(3):
        submitted = attack(gradients, mask, context)
        assert torch.equal(submitted[:2], gradients[:2])
        assert not submitted[2].any()
    gradients = gradients_like(3, 4, 20)  # from now on they differ
    attack(gradients, mask, context)
    assert context.memory.read("mimic_direction", 20)[:2].norm(dim=1).tolist() == pytest.approx([1, 1])


@pytest.mark.parametrize("name", ["mimic:warmup=3", "replay:delay=3"])
def test_an_environment_may_begin_again(name):
    rounds, attack = rounds_of(10), attacks.make_from(name)
    context, alone = context_for(rounds[0]), context_for(rounds[0][1:2], seed=50)
    for number, gradients in enumerate(rounds):
        if number == 4:
            context.memory.reset([1])
            context.generators[1].manual_seed(50)
        submitted = attack(gradients, MASK, context)
        if number >= 4:
            assert torch.equal(submitted[1], attack(gradients[1:2], MASK[1:2], alone)[0])


# Replay


@pytest.mark.parametrize("delay", [1, 2, 5, 30])
def test_replay_sends_what_was_honest_before(delay):
    rounds = rounds_of(12)
    attack, context = attacks.make("replay", delay=delay), context_for(rounds[0])
    for number, gradients in enumerate(rounds):
        mask = MASK.roll(number, dims=1)  # whoever becomes Byzantine has a past of its own
        submitted = attack(gradients, mask, context)
        assert torch.equal(submitted[mask], rounds[max(0, number - delay)][mask])
        assert torch.equal(submitted[~mask], gradients[~mask])


def test_replay_remembers_only_as_much_as_it_says():
    rounds = rounds_of(9)
    attack, context = attacks.make("replay", delay=4), context_for(rounds[0])
    for number, gradients in enumerate(rounds):
        attack(gradients, MASK, context)
        kept = sum(values.numel() for values in context.memory.state().values() if values.is_floating_point())
        assert kept == min(number + 1, 4) * gradients.numel()


# ROP


def slow_rop(rows, update, z, location, reference, angle):
    """As in the authors' library, for one environment."""
    mean = rows.mean(0)
    reference = (update if update.any() else mean) * reference + mean * (1 - reference)
    across = np.ones_like(mean)
    across = across - reference * (across @ reference) / (reference @ reference)
    across, along = across / np.linalg.norm(across), reference / np.linalg.norm(reference)
    turned = across * np.sin(np.radians(angle)) + along * np.cos(np.radians(angle))
    return location * update + (1 - location) * mean + turned * z / np.linalg.norm(turned)


@pytest.mark.parametrize(
    "parameters",
    [
        {"z": 1.0, "location": 1.0, "reference": 0.9, "angle": 270.0},
        {"z": 0.3, "location": 0.0, "reference": 1.0, "angle": 90},
        {"z": -2, "location": 0.4, "reference": 0.0, "angle": 180},
        {"z": 5, "location": 0.7, "reference": 0.5, "angle": 33.3},
    ],
)
def test_rop_against_the_authors_formula(parameters):
    gradients = gradients_like(3, 6, 40)
    context = context_for(gradients)
    context.previous_update = gradients_like(3, 1, 40, seed=9)[:, 0]
    context.previous_update[2] = 0  # as in the first round
    submitted = attacks.make("rop", **parameters)(gradients, MASK, context)
    for env in range(3):
        rows = gradients[env].double().numpy()[~MASK[env].numpy()]
        expected = slow_rop(rows, context.previous_update[env].double().numpy(), **parameters)
        for worker in MASK[env].nonzero()[:, 0].tolist():
            np.testing.assert_allclose(submitted[env, worker], expected, rtol=1e-4, atol=1e-5)


def test_rop_keeps_within_the_radius_of_centered_clipping_and_is_orthogonal():
    gradients = gradients_like(1, 6, 500) + 1
    context = context_for(gradients)
    context.previous_update = gradients[:, 0] / 2
    submitted = attacks.make("rop", z=0.7, reference=1.0).corrupt(gradients, mask_of(6, [2]), context)[0, 0]
    moved = (submitted - context.previous_update[0]).double()
    assert moved.norm().item() == pytest.approx(0.7, rel=1e-5)
    assert moved @ context.previous_update[0].double() == pytest.approx(0, abs=1e-4)
    assert moved.sum() < 0


@pytest.mark.parametrize("update", [0.0, 2.0, 1e25])
@pytest.mark.parametrize("dimension", [1, 4])
def test_rop_is_finite_without_an_orthogonal_direction(dimension, update):
    for gradients in (torch.zeros(1, 3, dimension), torch.full((1, 3, dimension), 2.0)):
        context = context_for(gradients)
        context.previous_update = torch.full((1, dimension), update)
        for angle in (0, 90, 270):
            submitted = attacks.make("rop", angle=angle).corrupt(gradients, mask_of(3, [0]), context)
            assert submitted.isfinite().all()
            assert (submitted[0, 0] - update).norm() < 1.001 + 1e-6 * update


def test_rop_with_the_z_of_alie():
    gradients = gradients_like(2, 10, 30)
    mask = mask_of(10, [0, 1, 2], list(range(7)))
    context = context_for(gradients)
    context.previous_update = gradients[:, 0].clone()
    submitted = attacks.make("rop", z=None)(gradients, mask, context)
    for env, z in enumerate((0.18, 1.5)):
        away = submitted[env, 0] - context.previous_update[env]
        assert float(away.norm()) == pytest.approx(z, abs=1e-3)
