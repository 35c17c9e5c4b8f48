"""Metrics on test data, by hand."""

import pytest
import torch
from simulation_cases import make
from torch import nn
from torch.nn import functional as F

from byzgym import tasks
from byzgym.simulation import metrics


class Logits:
    """A model whose logits are its inputs, taken two samples at a time."""

    def samples_at_once(self, num_envs, sample_size):
        return 2

    def logits(self, theta, x):
        return theta[:, :1, None] * x


X = torch.tensor(
    [[4.0, 3, 2, 1, 0], [4, 3, 2, 1, 0], [4, 3, 2, 1, 0], [1, 1, 1, 0, 0], [torch.nan, 1, 2, 3, 4]]
)
Y = torch.tensor([0, 2, 3, 0, 0])


def test_accuracies_and_losses_by_hand():
    found = metrics.test_metrics(Logits(), torch.tensor([[1.0], [-1.0]]), X[:3], Y[:3])
    assert found["accuracy"].tolist() == pytest.approx([1 / 3, 0])
    assert found["top3_accuracy"].tolist() == pytest.approx([2 / 3, 2 / 3])
    expected = [F.cross_entropy(sign * X[:3], Y[:3]).item() for sign in (1, -1)]
    assert found["test_loss"].tolist() == pytest.approx(expected)


def test_ties_and_numbers_that_are_none_earn_nothing():
    found = metrics.test_metrics(Logits(), torch.ones(1, 1), X[3:], Y[3:])
    assert found["accuracy"] == 0
    assert found["top3_accuracy"] == 0.5  # two tie with the first sample's own
    assert found["test_loss"] == pytest.approx(1e30)


def test_a_model_that_overflows_has_a_finite_loss():
    simulation = make()
    simulation.server.theta = torch.full_like(simulation.server.theta, 3e38)
    found = simulation.evaluate()
    assert found["test_loss"].isfinite().all()
    assert found["accuracy"].tolist() == [0, 0]


@pytest.mark.parametrize("model", ["mlp:16", "lenet"])
def test_parts_of_the_test_set_add_up(model, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    x, y = torch.rand(90, 1, 28, 28, generator=generator), torch.randint(10, (90,), generator=generator)
    tasks.register("test_images", lambda: tasks.Task((x, y), (x, y), 10))
    simulation = make(2, task="test_images", model=model)
    whole = simulation.evaluate()
    monkeypatch.setattr(simulation.engine, "samples_at_once", lambda num_envs, sample_size: 7)
    for name, values in simulation.evaluate().items():
        torch.testing.assert_close(values, whole[name], rtol=1e-5, atol=1e-6)
    module = tasks.models.build(model, x.shape[1:], 10, torch.Generator())
    nn.utils.vector_to_parameters(simulation.view.theta[1].clone(), module.parameters())
    hits = (module.eval()(x).argmax(1) == y).float().mean()
    torch.testing.assert_close(whole["accuracy"][1], hits)
