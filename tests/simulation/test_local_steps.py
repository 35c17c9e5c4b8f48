"""Workers that take several steps in a round, as in FedAvg."""

import pytest
import torch
from simulation_cases import make
from torch import nn
from torch.nn import functional as F

from byzgym import agents, tasks
from byzgym.simulation import Simulation

STEPS, RATE = 3, 0.2


def images():
    """Sixty images that are noise."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(60, 1, 28, 28, generator=generator)
    y = torch.randint(10, (60,), generator=generator)
    return tasks.Task(train=(x, y), test=(x, y), num_classes=10)


def models_by_loop(simulation):
    """The parameters [E, n, d] that workers reach by plain steps on the batches of the present round."""
    setup = simulation.setup
    module = tasks.models.build(
        setup.model, setup.task.input_shape, setup.task.num_classes, torch.Generator()
    )
    x_train, y_train = setup.task.train
    everyone = torch.arange(simulation.num_envs)
    samples = simulation.workers.batches.samples[everyone, simulation.server.round % 16]
    reached = torch.empty_like(simulation.gradients)
    for e, i in torch.cartesian_prod(*map(torch.arange, reached.shape[:2])).tolist():
        nn.utils.vector_to_parameters(simulation.view.theta[e].clone(), module.parameters())
        optimizer = torch.optim.SGD(module.parameters(), lr=RATE, weight_decay=setup.weight_decay)
        for batch in samples[e, i].split(setup.batch_size):
            optimizer.zero_grad()
            F.cross_entropy(module(x_train[batch]), y_train[batch]).backward()
            optimizer.step()
        reached[e, i] = nn.utils.parameters_to_vector(module.parameters()).detach()
    return reached


@pytest.mark.parametrize("model", ["softmax", "mlp:8", "lenet"])
def test_submissions_are_the_changes_of_local_models(model):
    task = images() if model == "lenet" else "synthetic"
    simulation = make(attack="none", local_steps=STEPS, learning_rate=RATE, model=model, task=task)
    for _ in range(2):
        expected = (simulation.view.theta[:, None] - models_by_loop(simulation)) / RATE
        torch.testing.assert_close(simulation.gradients, expected, rtol=1e-3, atol=2e-5)
        simulation.apply(simulation.gradients.mean(1))


@pytest.mark.parametrize("steps", [1, STEPS])
def test_weight_decay_is_that_of_torch(steps):
    simulation = make(attack="none", local_steps=steps, learning_rate=RATE, weight_decay=0.3)
    for _ in range(2):
        expected = (simulation.view.theta[:, None] - models_by_loop(simulation)) / RATE
        torch.testing.assert_close(simulation.gradients, expected, rtol=1e-3, atol=2e-5)
        simulation.apply(simulation.gradients.mean(1))


def test_the_mean_is_fedavg():
    simulation = make(attack="none", local_steps=STEPS, learning_rate=RATE)
    expected = models_by_loop(simulation).mean(1)
    simulation.apply(agents.build("mean", simulation).decide(simulation.view))
    torch.testing.assert_close(simulation.view.theta, expected, rtol=1e-4, atol=1e-6)


def test_one_step_is_a_gradient():
    one, default = make(attack="sign_flip", local_steps=1), make(attack="sign_flip")
    assert one.gradients.equal(default.gradients)


def test_environments_of_a_batch_equal_single_ones():
    both = make(num_envs=2, attack="ipm", local_steps=STEPS)
    second = make(num_envs=1, seed=1, attack="ipm", local_steps=STEPS)
    torch.testing.assert_close(both.gradients[1:], second.gradients)


def test_local_training_learns_in_fewer_rounds():
    accuracy = []
    for steps in (1, 8):
        simulation = Simulation.make(2, seed=0, attack="none", num_byzantine=0, local_steps=steps)
        for _ in range(15):
            simulation.apply(simulation.gradients.mean(1))
        accuracy.append(simulation.evaluate()["accuracy"].mean())
    assert accuracy[1] > accuracy[0] + 0.2


def test_poisoned_data_is_trained_on_in_all_steps():
    clean, poisoned = (
        make(attack=name, local_steps=STEPS, num_byzantine=2) for name in ("none", "label_flip")
    )
    changed = (clean.gradients != poisoned.gradients).any(2)
    assert changed.equal(poisoned.byzantine)


class Dropped(nn.Sequential):
    """Enough parameters that rows which nobody sees are left out."""

    def __init__(self, *_):
        super().__init__(
            *(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Dropout(0.5)),
            *(nn.Linear(4 * 26**2, 8), nn.Linear(8, 10)),
        )


@pytest.mark.parametrize("steps", [1, 2])
def test_what_others_attack_with_does_not_change_a_workers_dropout(steps):
    tasks.models.register("dropped", Dropped)
    settings = {"task": images(), "model": "dropped", "batch_size": 8, "local_steps": steps}
    alone = make(num_envs=1, attack="gaussian", **settings)  # it reads no Byzantine gradient
    both = make(attack="gaussian", per_environment=[{}, {"attack": "sign_flip"}], **settings)
    assert alone.num_parameters > 1 << 14
    for _ in range(2):
        honest = ~alone.byzantine[0]
        torch.testing.assert_close(both.gradients[0, honest], alone.gradients[0, honest])
        alone.apply(torch.zeros_like(alone.view.theta))
        both.apply(torch.zeros_like(both.view.theta))


@pytest.mark.parametrize("steps", [0, -1, 1.5, "2", None, True])
def test_wrong_numbers_are_refused(steps):
    with pytest.raises((ValueError, TypeError), match="local_steps"):
        make(local_steps=steps)
