"""The server's own samples, and the loss on them: finite, bounded, and in nobody's way."""

import numpy as np
import pytest
import torch
from simulation_cases import assert_same, make, play, state_of

from byzgym import attacks, tasks
from byzgym.aggregation import ServerView
from byzgym.numerics.finite import LARGEST_LOSS
from byzgym.simulation import Simulation
from byzgym.simulation.quasi_validation import QuasiValidation, without


class Scaling:
    """A model of two parameters whose loss is (theta_0 x)^2, and whose gradient overflows."""

    num_parameters = 2

    def loss(self, theta, x, y):
        return (theta[:, 0] * x[:, 0]).square()

    def loss_and_gradient(self, theta, x, y):
        return torch.tensor([torch.inf, 3e38]), torch.tensor([[torch.inf, 1.0], [-torch.inf, torch.nan]])


def test_losses_and_gradients_are_finite():
    qv = QuasiValidation(Scaling(), 2, torch.zeros(1), torch.zeros(1), num_classes=2)
    loss, gradient = qv.loss_and_gradient(torch.zeros(2, 2))
    assert LARGEST_LOSS == 1e30
    assert loss.tolist() == pytest.approx([1e30, 1e30])
    assert gradient.tolist() == [[0, 1], [0, 0]]


def test_new_samples_leave_earlier_graphs():
    qv = QuasiValidation(Scaling(), 1, torch.zeros(1), torch.zeros(1), num_classes=2)
    qv.assign([0], [(torch.ones(1), torch.zeros(1))])
    theta = torch.ones(1, 2, requires_grad=True)
    loss = qv.loss(theta)
    qv.assign([0], [(torch.full((1,), 5.0), torch.zeros(1))])
    loss.sum().backward()
    assert theta.grad[0, 0] == 2


def test_samples_are_in_no_share_and_no_test_set():
    def rows(x):
        return {tuple(row.tolist()) for row in x.flatten(1)}

    simulation = make(num_envs=3, task="digits")
    task, qv = simulation.setup.task, rows(simulation.quasi_validation.x.flatten(0, 1))
    assert qv <= rows(task.held_out[0])
    assert not qv & (rows(task.train[0]) | rows(task.test[0]))


ZEROS, LABELS = torch.zeros(10, 8), torch.zeros(10, dtype=torch.int64)


@pytest.mark.parametrize(
    "samples",
    [
        None,
        ZEROS,
        *((x, LABELS) for x in (ZEROS.numpy(), ZEROS[:3], ZEROS[:, :3], ZEROS * torch.nan)),
        *((ZEROS, y) for y in (None, LABELS.float(), LABELS - 1, LABELS + 3, LABELS[:3])),
    ],
)
def test_what_a_source_returns_is_checked(samples):
    tasks.quasi_validation.register("odd", lambda: lambda task, qv_size, generator: samples)
    with pytest.raises(ValueError, match=r"qv_source odd must return 10 finite samples of shape \(8,\)"):
        make(qv_source="odd")
    samples = (ZEROS.double(), LABELS)
    assert make(qv_source="odd").qv_loss().dtype == torch.float32
    samples = (ZEROS, LABELS + 3)
    with pytest.raises(
        ValueError, match=r"int64 of shape \(10,\) from 0 to 2, got 2 values \(float32 .* from 3 to 3"
    ):
        make(qv_source="odd")


def samples_of(simulation):
    return simulation.quasi_validation.x.clone()


def kept(one, other):
    """Which environments have the same samples, as a list."""
    return [torch.equal(*pair) for pair in zip(one, other, strict=True)]


def test_samples_are_drawn_anew_every_period():
    simulation = make(qv_period=3)
    for round in range(1, 8):
        before = samples_of(simulation)
        play(simulation)
        assert kept(samples_of(simulation), before) == [round % 3 > 0] * 2
        loss, _ = simulation.quasi_validation.loss_and_gradient(simulation.view.theta)
        assert torch.equal(simulation.qv_loss(), loss)


def test_without_a_period_samples_stay():
    simulation, other = make(), make(qv_period=1000)
    play(simulation, other, rounds=20)
    assert torch.equal(samples_of(simulation), samples_of(make()))
    assert_same(simulation, other)


def test_environments_draw_in_rounds_of_their_own():
    simulation = make(qv_period=3)
    play(simulation)
    play(simulation, envs=[1])
    before = samples_of(simulation)
    play(simulation)  # to rounds 2 and 3
    assert kept(samples_of(simulation), before) == [True, False]
    before = samples_of(simulation)
    play(simulation, envs=[0])
    assert kept(samples_of(simulation), before) == [False, True]


@pytest.mark.parametrize("qv_source", ["held_out", "noise:std=0.3"])
def test_a_batch_that_draws_anew_equals_single_ones(qv_source):
    arguments = {"qv_period": 2, "qv_source": qv_source, "attack": "gaussian"}
    batch = make(3, 5, **arguments)
    alone = [make(1, 5 + env, **arguments) for env in range(3)]
    for _ in range(5):
        play(batch, *alone)
        for env, single in enumerate(alone):
            assert torch.equal(batch.quasi_validation.x[[env]], single.quasi_validation.x)
            assert_same(batch, single, [env])


def test_a_restored_run_draws_the_same_samples():
    simulation = make(qv_period=2)
    play(simulation, rounds=2)
    snapshot, loss = simulation.snapshot(), simulation.qv_loss_of_step()
    assert not torch.equal(loss, simulation.qv_loss())
    play(simulation, rounds=5)
    state, samples = state_of(simulation), samples_of(simulation)
    simulation.restore(snapshot)
    assert torch.equal(simulation.qv_loss_of_step(), loss)
    play(simulation, rounds=5)
    assert_same(simulation, state)
    assert torch.equal(samples_of(simulation), samples)


def test_the_loss_of_a_step_is_on_the_samples_that_decided_it():
    simulation = make(qv_period=2)
    for round in range(1, 5):
        x, y = simulation.quasi_validation.x, simulation.quasi_validation.y
        play(simulation)
        old = simulation.engine.loss(simulation.view.theta, x, y)
        torch.testing.assert_close(simulation.qv_loss_of_step(), old)
        assert torch.equal(simulation.qv_loss_of_step(), simulation.qv_loss()) == (round % 2 == 1)
    simulation.reset([7], [0])
    assert (simulation.qv_loss_of_step() == simulation.qv_loss()).tolist() == [True, False]


class Spy(attacks.Attack):
    """Keeps the QV samples that it is shown."""

    knowledge = frozenset({"qv"})

    def __init__(self):
        self.shown = []

    def corrupt(self, gradients, byzantine, context):
        self.shown.append(context.qv[0].clone())
        return -gradients


def test_an_attack_sees_the_samples_from_before_the_draw():
    spy = Spy()
    simulation = make(1, attack=spy, qv_period=2)
    judging = [samples_of(simulation)]
    for _ in range(5):
        play(simulation)
        judging.append(samples_of(simulation))
    assert kept(spy.shown, judging) == [True, True, False, True, False, True]
    assert kept(spy.shown[1:], judging[:-1]) == [True] * 5


def test_a_source_that_fails_later_leaves_no_half_round():
    def source(task, qv_size, generator):
        if failing:
            raise OSError("gone")
        return task.held_out[0][:qv_size], task.held_out[1][:qv_size]

    failing = False
    simulation = make(qv_source=source, qv_period=1)
    play(simulation)
    failing = True
    with pytest.raises(OSError, match="gone"):
        play(simulation)
    with pytest.raises(RuntimeError, match="QV source; reset all environments first"):
        _ = simulation.view
    failing = False
    simulation.reset([0, 1])
    play(simulation)


@pytest.mark.parametrize("model", ["mlp:16", "xie_cnn", "softmax"])
def test_samples_own_gradients_and_contrasts_are_those_of_a_loop(model):
    simulation = Simulation.make(num_envs=2, seed=3, task="digits", model=model, qv_size=4)
    view, samples = simulation.view, simulation.quasi_validation
    assert view.qv_sample_gradients.shape == view.qv_contrasts.shape == (2, 4, simulation.num_parameters)
    torch.testing.assert_close(view.qv_sample_gradients.mean(1), view.qv_gradient, rtol=1e-4, atol=1e-6)
    for env in range(2):
        present = sorted(set(samples.y[env].tolist()))
        theta = view.theta[env : env + 1].clone().requires_grad_()
        log_p = torch.log_softmax(simulation.engine.logits(theta, samples.x[env : env + 1])[0], 1)  # [4, C]

        def gradient(loss: torch.Tensor, theta: torch.Tensor = theta) -> torch.Tensor:
            return torch.autograd.grad(loss, theta, retain_graph=True)[0][0]

        preferences = torch.stack([gradient(-log_p[:, label].mean()) for label in present])
        preferences = (preferences - preferences.mean(0)).double()
        for sample in range(4):
            own = int(samples.y[env, sample])
            others = [label for label in present if label != own]
            loss = -log_p[sample, own]
            torch.testing.assert_close(
                view.qv_sample_gradients[env, sample], gradient(loss), rtol=1e-4, atol=1e-6
            )
            contrast = gradient(loss + log_p[sample, others].mean())
            solved = np.linalg.lstsq(preferences.T.numpy(), contrast.double().numpy(), rcond=1e-2)[0]
            expected = contrast - (preferences.T @ torch.from_numpy(solved)).float()
            torch.testing.assert_close(view.qv_contrasts[env, sample], expected, rtol=1e-3, atol=1e-5)


def test_contrasts_tell_wrong_labels_from_few_classes():
    simulation = Simulation.make(
        num_envs=32, seed=3, num_byzantine=7, attack="label_flip", partition="dirichlet:alpha=0.5"
    )
    contrast = simulation.view.qv_contrasts.mean(1, keepdim=True)
    agreement = torch.cosine_similarity(simulation.view.gradients, contrast, dim=2)  # [E, n]
    byzantine = simulation.byzantine
    wins = agreement[:, :, None] > agreement[:, None]
    pairs = ~byzantine[:, :, None] & byzantine[:, None]
    assert wins[pairs].float().mean() > 0.85  # the AUC: 0.92, and 0.65 with class preferences


def test_without_takes_away_what_lies_in_the_span():
    rows, others = torch.tensor([[[1.0, 2.0, 3.0]]]), torch.tensor([[[0.0, 2.0, 0.0], [0.0, -2.0, 0.0]]])
    assert without(rows, others).tolist() == [[[1, 0, 3]]]
    assert without(rows, 0 * others).tolist() == rows.tolist()
    assert without(rows, 1e30 * others).tolist() == [[[1, 0, 3]]]


def test_a_qv_source_sees_no_test_data():
    def cheating(task, qv_size, generator):
        x, y = task.test
        return x[:qv_size], y[:qv_size]

    with pytest.raises(ValueError, match="must return 10 finite samples"):
        Simulation.make(task="synthetic", qv_source=cheating)
    assert len(tasks.make("synthetic").without_test().test[1]) == 0


def test_contrasts_are_zero_where_all_samples_have_one_label():
    simulation = Simulation.make(num_envs=1, seed=0, task="digits")
    labels = torch.zeros(10, dtype=torch.int64)
    simulation.quasi_validation.assign([0], [(simulation.quasi_validation.x[0], labels)])
    assert not simulation.view.qv_contrasts.any()


def test_a_job_with_the_mean_loss_alone_has_one_sample_and_no_contrasts():
    view = ServerView(torch.ones(1, 3, 2), torch.ones(1, 2), 0.1, lambda theta: theta.square().sum(1))
    assert view.qv_sample_gradients.tolist() == [[[2, 2]]]
    assert view.qv_contrasts is None


def test_part_of_a_view_has_its_samples():
    view = Simulation.make(num_envs=3, seed=0, task="synthetic").view
    part = view.of(torch.tensor([2, 0]))
    torch.testing.assert_close(part.qv_sample_gradients, view.qv_sample_gradients[[2, 0]])
    torch.testing.assert_close(part.qv_contrasts, view.qv_contrasts[[2, 0]])
