"""Metrics on test data, by hand."""

import pytest
import torch
from simulation_cases import make
from torch import nn
from torch.nn import functional as F

from byzgym import tasks
from byzgym.simulation import metrics


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
