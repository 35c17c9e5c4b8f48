"""Metrics on test data, by hand."""

import pytest
import torch
from simulation_cases import make
from torch import nn
from torch.nn import functional as F

from byzgym import attacks, tasks
from byzgym.simulation import metrics
from byzgym.simulation.config import named_attacks


class Logits:
    """A model whose logits are its inputs times a number, taken two samples at a time."""

    def samples_at_once(self, num_envs, sample_size):
        return 2

    def logits(self, theta, x):
        return theta[:, :1, None] * x


def test_accuracies_and_losses_by_hand():
    x, y = torch.tensor([[4.0, 3, 2, 1, 0]] * 3), torch.tensor([0, 2, 3])
    found = metrics.test_metrics(Logits(), torch.tensor([[1.0], [-1.0]]), x, y)
    assert found["accuracy"].tolist() == pytest.approx([1 / 3, 0])
    assert found["top3_accuracy"].tolist() == pytest.approx([2 / 3, 2 / 3])
    expected = [F.cross_entropy(sign * x, y).item() for sign in (1, -1)]
    assert found["test_loss"].tolist() == pytest.approx(expected)


def test_ties_and_overflows_earn_nothing():
    x = torch.tensor([[1.0, 1, 1, 0, 0], [torch.nan, 1, 2, 3, 4], [3e38, 3e38, 0, 0, 0]])
    found = metrics.test_metrics(Logits(), torch.tensor([[1.0], [10.0]]), x, torch.tensor([0, 0, 2]))
    assert found["accuracy"].tolist() == [0, 0]
    assert found["top3_accuracy"].tolist() == pytest.approx(
        [1 / 3, 1 / 3]
    )  # two tie with the first sample's own
    assert found["test_loss"].tolist() == pytest.approx([1e30, 1e30])


@pytest.mark.parametrize("model", ["mlp:16", "lenet"])
def test_parts_of_the_test_set_add_up(model, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    x, y = torch.rand(90, 1, 28, 28, generator=generator), torch.randint(10, (90,), generator=generator)
    simulation = make(task=tasks.Task((x, y), (x, y), 10), model=model)
    whole = simulation.evaluate()
    monkeypatch.setattr(simulation.engine, "samples_at_once", lambda num_envs, sample_size: 7)
    for name, values in simulation.evaluate().items():
        torch.testing.assert_close(values, whole[name], rtol=1e-5, atol=1e-6)
    module = tasks.models.build(model, x.shape[1:], 10, torch.Generator()).eval()
    nn.utils.vector_to_parameters(simulation.view.theta[1].clone(), module.parameters())
    torch.testing.assert_close(whole["accuracy"][1], (module(x).argmax(1) == y).float().mean())


class Shift(attacks.Triggered):
    """Its trigger adds one to the first number of an input."""

    def __init__(self, target):
        super().__init__(target, None, 1.0)

    def parts(self, shape):
        raise NotImplementedError

    def trigger(self, x, largest_input=None):
        return x + torch.nn.functional.one_hot(torch.zeros(len(x), dtype=torch.int64), x.shape[1])


def test_success_by_hand():
    x, y = torch.tensor([[0.5, 1.0, 0], [0, 1, 0], [0, 0, 1], [0, 3, 0]]), torch.tensor([1, 0, 2, 1])
    backdoors = named_attacks([Shift(0), "zero", Shift(2)])
    theta, of = torch.tensor([[1.0], [-1.0], [1.0], [1.0]]), torch.tensor([0, 0, 1, 2])
    rates = metrics.success_rates(Logits(), theta, x, y, backdoors, of)
    # With the trigger: (1.5, 1, 0), (1, 1, 0), (1, 0, 1), (1, 3, 0); the second has the label 0, and a tie in
    # the third is no success.
    assert rates[0] == pytest.approx(1 / 3)
    assert rates[1] == 0
    assert rates[2].isnan()
    assert rates[3] == 0
    only = metrics.success_rates(Logits(), theta[:1], x[1:2], y[1:2], backdoors, of[:1])
    assert only.isnan().all()


@pytest.mark.parametrize(
    ("trigger", "error"),
    [
        (lambda self, x: x, "positional argument"),
        (lambda self, x, largest: x[:1], "what trigger returns must"),
    ],
    ids=["signature", "shape"],
)
def test_a_trigger_that_fails_is_named(trigger, error):
    odd = type("Odd", (attacks.Backdoor,), {"trigger": trigger})
    with pytest.raises((TypeError, ValueError), match=error) as caught:
        make(attack=odd(size=1)).evaluate()
    assert caught.value.__notes__ == ["raised by attack Odd"]


def test_success_is_among_the_metrics_of_backdoors_only():
    simulation = make(per_environment=[{"attack": "backdoor:target=1"}, {"attack": "zero"}])
    rates = simulation.evaluate()["attack_success_rate"]
    assert 0 <= rates[0] <= 1
    assert rates[1].isnan()
    assert "attack_success_rate" not in make(attack="zero").evaluate()


def test_a_backdoor_works_under_the_mean():
    """And the model still does its task."""
    backdoor = {"name": "backdoor", "target": 0, "value": 1.0}
    arguments = {"task": "digits", "num_workers": 6, "batch_size": 32, "learning_rate": 0.5}
    open_, closed = (make(1, attack=backdoor, num_byzantine=number, **arguments) for number in (3, 0))
    for _ in range(150):
        for simulation in (open_, closed):
            simulation.apply(simulation.gradients.mean(1))
    measured, clean = open_.evaluate(), closed.evaluate()
    assert measured["attack_success_rate"] > 0.8
    assert clean["attack_success_rate"] < 0.3
    assert measured["accuracy"] > 0.8
