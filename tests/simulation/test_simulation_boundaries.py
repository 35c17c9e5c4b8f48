"""The last values that are allowed, the first that are not, and the round after a refused update."""

import pytest
import torch
from simulation_cases import make, uniform_update

from byzgym import attacks
from byzgym.simulation.batches import checked_shares
from byzgym.simulation.schedules import LearningRate


def test_the_round_goes_on_after_a_refused_update():
    rate = {"initial": 0.8, "schedule": "step", "every": 1, "factor": 0.5}
    simulation = make(3, learning_rate=rate, attack="none")
    update = uniform_update(simulation).clone()
    update[0] = torch.nan
    simulation.apply(update)
    assert simulation.diverged.tolist() == [True, False, False]
    assert simulation.view.round.tolist() == [1, 1, 1]
    simulation.apply(update, envs=[0, 2])
    assert simulation.view.round.tolist() == [2, 1, 2]
    assert simulation.view.learning_rate.tolist() == pytest.approx([0.2, 0.4, 0.2])


class Relabel(attacks.DataPoisoning):
    """Gives the samples of Byzantine workers a label counted from the number of classes."""

    def __init__(self, beyond):
        self.beyond = beyond

    def poison(self, x, y, byzantine, context):
        return x, torch.where(byzantine[..., None], context.num_classes + self.beyond, y)


def test_the_label_after_the_last_class_is_refused():
    attacks.register("test_relabel", Relabel)
    make(attack={"name": "test_relabel", "beyond": -1})
    with pytest.raises(ValueError, match=r"labels of shape .*, int64 from 0 to"):
        make(attack={"name": "test_relabel", "beyond": 0})


def test_the_number_after_the_last_sample_is_refused():
    lengths = torch.tensor([1, 2])
    last = torch.tensor([[0, 0], [3, 9]])
    assert checked_shares("mine", (last, lengths), 2, 10)[0] is last
    with pytest.raises(ValueError, match=r"int64 of shape \(2, m\) from 0 to 9"):
        checked_shares("mine", (last + 1, lengths), 2, 10)


def test_a_step_size_may_not_grow_in_steps():
    spec = {"initial": 0.5, "schedule": "step", "every": 2, "factor": 1.0}
    assert LearningRate(spec, 4)(torch.arange(4)).tolist() == [0.5] * 4
    with pytest.raises(ValueError, match=r"learning_rate\['factor'\] must be"):
        LearningRate({**spec, "factor": 1.001}, 4)
