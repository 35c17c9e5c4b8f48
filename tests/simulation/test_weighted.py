"""Gradients of weighted losses, and attacks that craft their loss, in a simulation."""

import pytest
import torch
from simulation_cases import make
from torch import nn
from torch.nn import functional as F

from byzgym import attacks, tasks
from byzgym.simulation.weighted import weighted_gradients


@pytest.mark.parametrize("model", ["softmax", "mlp:8", "lenet"])
def test_against_autograd(model):
    generator = torch.Generator().manual_seed(0)
    x, y = torch.rand(60, 1, 16, 16, generator=generator), torch.randint(10, (60,), generator=generator)
    simulation = make(task=tasks.Task((x, y), (x, y), 10), model=model, attack="none")
    weights = torch.randn(3, 4, generator=generator)
    theta = simulation.view.theta[[0, 1, 1]]
    inputs, labels = x[:12].view(3, 4, 1, 16, 16), y[:12].view(3, 4)
    found = weighted_gradients(simulation.engine, theta, inputs, labels, weights)
    for worker in range(3):
        module = tasks.models.build(model, (1, 16, 16), 10, torch.Generator()).eval()
        nn.utils.vector_to_parameters(theta[worker].clone(), module.parameters())
        losses = F.cross_entropy(module(inputs[worker]), labels[worker], reduction="none")
        gradients = torch.autograd.grad((weights[worker] * losses).mean(), list(module.parameters()))
        expected = torch.cat([part.flatten() for part in gradients])
        torch.testing.assert_close(found[worker], expected, rtol=1e-4, atol=1e-6)
    assert not found.requires_grad


class Weighing(attacks.DataPoisoning):
    """Weights of 1, and otherwise nothing."""

    def __init__(self, weight):
        self.weight = weight

    def poison(self, x, y, byzantine, context):
        return x, y, torch.full(y.shape, self.weight)


def test_weights_scale_the_gradient_of_byzantine_workers():
    plain, same, triple = (make(attack=attack) for attack in ("none", Weighing(1.0), Weighing(-3.0)))
    assert torch.equal(same.gradients, plain.gradients)
    honest = ~plain.byzantine
    assert torch.equal(triple.gradients[honest], plain.gradients[honest])
    torch.testing.assert_close(triple.gradients[~honest], -3 * plain.gradients[~honest], rtol=1e-4, atol=1e-6)


def test_weights_must_fit_the_labels():
    class Wrong(Weighing):
        def poison(self, x, y, byzantine, context):
            return x, y, torch.ones(3)

    with pytest.raises(ValueError, match="perhaps weights of the shape of the labels"):
        make(attack=Wrong(1.0))


class Spying(attacks.Attack):
    """Keeps what it is told."""

    def __init__(self, *knowledge):
        self.knowledge, self.told = frozenset(knowledge), []

    def corrupt(self, gradients, byzantine, context):
        self.told.append((context.qv, context.qv_distribution, context.qv_labels, context.rule))
        return gradients


def test_attacks_are_told_what_they_declare_and_no_more():
    names = ("qv", "qv_distribution", "qv_labels", "rule")
    for chosen in range(4):
        spy = Spying(names[chosen])
        make(attack=spy)
        given = spy.told[-1]
        assert [part is not None for part in given] == [number == chosen for number in range(4)]


def test_the_labels_tell_nothing_of_the_samples():
    spy = Spying("qv_labels")
    simulation = make(attack=spy)
    assert torch.equal(spy.told[-1][2], simulation.quasi_validation.y.sort(1).values)


def test_samples_of_the_same_distribution_are_drawn_anew():
    spy = Spying("qv_distribution")
    simulation = make(attack=spy, qv_size=20)
    for _ in range(3):
        simulation.apply(simulation.gradients.mean(1))
    held_out = simulation.setup.task.held_out[0]
    drawn = [told[1][0] for told in spy.told[-3:]]
    for x in drawn:
        assert (x[0][:, None] == held_out).all(2).any(1).all()
        assert not torch.equal(x, simulation.quasi_validation.x)
    assert not torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0][0], drawn[0][1])


def test_other_environments_do_not_depend_on_it():
    mixed = make(per_environment=[{"attack": "zero"}, {"attack": "leaked_qv:leak=distribution"}])
    alone = make(attack="zero")
    for _ in range(3):
        torch.testing.assert_close(mixed.gradients[0], alone.gradients[0], rtol=1e-4, atol=1e-5)
        for simulation in (mixed, alone):
            simulation.apply(simulation.gradients.mean(1))


@pytest.mark.parametrize("attack", ["missing_label", "leaked_qv", "leaked_qv:leak=labels"])
def test_the_crafted_loss_lowers_the_qv_loss_and_does_harm_elsewhere(attack):
    arguments = {"num_byzantine": 5, "qv_size": 1, "batch_size": 32, "learning_rate": 0.05}
    attacked, plain = make(attack=attack, **arguments), make(attack="none", **arguments)
    for _ in range(40):
        for simulation in (attacked, plain):
            simulation.apply(simulation.gradients.mean(1))
    assert (attacked.qv_loss() < plain.qv_loss()).all()
    assert (attacked.evaluate()["accuracy"] < plain.evaluate()["accuracy"] - 0.3).all()
