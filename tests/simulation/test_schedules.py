"""Learning rates, by hand."""

import pytest
import torch

from byzgym.simulation.schedules import LearningRate


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (0.5, [0.5] * 5),
        ({"initial": 1.0, "schedule": "linear"}, [1, 0.75, 0.5, 0.25, 0]),
        ({"initial": 1.0, "schedule": "linear", "final": 0.5}, [1, 0.875, 0.75, 0.625, 0.5]),
        ({"initial": 1.0, "schedule": "cosine"}, [1, (1 + 0.5**0.5) / 2, 0.5, (1 - 0.5**0.5) / 2, 0]),
        ({"initial": 1.0, "schedule": "inverse_time", "decay": 1.0}, [1, 1 / 2, 1 / 3, 1 / 4, 1 / 5]),
        ({"initial": 1.0, "schedule": "step", "every": 3}, [1, 1, 1, 0.1, 0.1]),
        ({"initial": 0.5, "schedule": "step", "every": 2, "factor": 1.0}, [0.5] * 5),
    ],
)
def test_rates_of_an_episode_of_four_rounds(spec, expected):
    assert LearningRate(spec, 4)(torch.arange(5)).tolist() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_the_rate_stays_at_its_end(schedule):
    rate = LearningRate({"initial": 1.0, "schedule": schedule, "final": 0.25}, 4)
    assert rate(torch.tensor([4, 5, 9])).tolist() == pytest.approx([0.25] * 3)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (-0.1, "learning_rate must be a finite number greater than 0"),
        ({"schedule": "linear"}, r"\['initial'\] must be a finite number .*None"),
        ({"initial": 0.1, "schedule": "nope"}, r"\['schedule'\] must be one of 'constant', .*'nope'"),
        ({"initial": 0.1, "every": 3}, "schedule 'constant' has no key 'every'"),
        ({"initial": 1.0, "schedule": "linear", "final": 2.0}, r"\['final'\] .* from 0 to 1.0, got 2.0"),
        ({"initial": 1.0, "schedule": "step"}, r"\['every'\] must be an integer of at least 1, got None"),
        ({"initial": 1.0, "schedule": "step", "every": 2, "factor": 1.001}, r"\['factor'\] must be"),
    ],
)
def test_bad_values_are_named(spec, message):
    with pytest.raises(ValueError, match=message):
        LearningRate(spec, 4)
