"""Metrics on test data, for evaluation only: no agent, reward or rule may see them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from byzgym.attacks import Triggered
from byzgym.simulation.config import NamedAttack
from byzgym.simulation.gradients import GradientEngine
from byzgym.validation import blamed, check_tensor


@torch.no_grad()
def test_metrics(engine: GradientEngine, theta: Tensor, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """Test metrics of parameters [E, d] on samples x [N, ...], y [N].

    Returns:
        "accuracy" and "top3_accuracy", each from 0 to 1, and "test_loss" (mean cross entropy), all [E].
    """
    num_envs = len(theta)
    totals = theta.new_zeros(3, num_envs)
    chunk = engine.samples_at_once(num_envs, math.prod(x.shape[1:]))
    for start in range(0, len(y), chunk):
        labels = y[start : start + chunk].expand(num_envs, -1)
        inputs = x[start : start + chunk]
        logits = engine.logits(theta, inputs.expand(num_envs, *inputs.shape))
        own = logits.gather(2, labels[..., None])
        # Ties count against the model, so that a constant or non-finite output earns nothing.
        ahead = (~(logits < own)).sum(2) - 1
        totals[0] += (ahead < 1).sum(1)
        totals[1] += (ahead < 3).sum(1)
        totals[2] -= torch.log_softmax(logits.double(), 2).gather(2, labels[..., None]).sum((1, 2)).float()
    accuracy, top3, loss = totals / len(y)
    return {
        "accuracy": accuracy,
        "top3_accuracy": top3,
        "test_loss": torch.nan_to_num(loss, nan=1e30, posinf=1e30),
    }


def success_rates(
    engine: GradientEngine,
    theta: Tensor,
    x: Tensor,
    y: Tensor,
    attacks: Sequence[NamedAttack],
    attack_of: Tensor,
    largest_input: float | None = None,
) -> Tensor:
    """How often backdoors succeed with parameters [E, d]: the attack success rates [E], from 0 to 1.

    That is the share of the test samples x [N, ...], y [N] without the target label that get it once they
    bear the trigger. A tie is no success. NaN where environment e's attack, ``attacks[attack_of[e]]``, is no
    backdoor, or all samples have the target label.
    """
    rates = theta.new_full((len(theta),), torch.nan)
    for number, named in enumerate(attacks):
        attack = named.attack
        envs = (attack_of == number).nonzero()[:, 0]
        if not isinstance(attack, Triggered) or not len(envs):
            continue
        others = y != attack.target
        if others.any():
            # A copy, because an attack may be anybody's code.
            with blamed(f"attack {named.name}"):
                triggered = attack.trigger(x.clone(), largest_input)
                check_tensor("what trigger returns", triggered, *x.shape)
            target = torch.full_like(y[others], attack.target)
            rates[envs] = test_metrics(engine, theta[envs], triggered[others], target)["accuracy"]
    return rates
