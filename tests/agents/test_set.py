"""The set aggregator: what it may depend on, what it remembers, and what it does in a run."""

import pytest
import torch

from byzgym import agents
from byzgym.agents.set.features import COLUMNS, PER_RUN, observe, remember, start
from byzgym.aggregation import ServerView
from byzgym.memory import Memory
from byzgym.numerics.sketch import Sketch
from byzgym.simulation import Simulation


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def job(gradients, memory, round=0, scale=1.0, samples=True):
    """A view of a job with a linear loss for each of four QV samples."""
    slopes = scale * normal(4, gradients.shape[2], seed=9)
    given = slopes.expand(len(gradients), -1, -1)
    return ServerView(
        gradients,
        torch.zeros(len(gradients), gradients.shape[2]),
        0.1 / scale**2,
        lambda theta: 1 + (theta @ slopes.T.to(theta)).mean(1),
        round=torch.full((len(gradients),), round),
        memory=memory,
        qv_per_sample=(lambda theta: (given.to(theta), given.flip(1).to(theta))) if samples else None,
    )


def rounds_of(gradients, order=None, **how):
    """The credits of a run over the rounds of gradients [T, E, n, d]."""
    agent, memory = agents.make("set"), Memory(gradients.shape[1])
    order = torch.arange(gradients.shape[2]) if order is None else order
    return torch.stack(
        [agent.credits(job(rows[:, order], memory, number, **how)) for number, rows in enumerate(gradients)]
    )


@pytest.mark.parametrize("samples", [True, False])
def test_permuting_the_workers_permutes_the_credits(samples):
    gradients, order = normal(4, 2, 6, 30), torch.tensor([3, 0, 5, 1, 4, 2])
    credits = rounds_of(gradients, samples=samples)
    torch.testing.assert_close(
        rounds_of(gradients, order, samples=samples), credits[..., order], rtol=1e-3, atol=1e-5
    )
    assert credits.std(2).min() > 1e-5


@pytest.mark.parametrize("num_workers", [1, 2, 3, 37])
def test_any_number_of_workers_will_do(num_workers):
    credits = rounds_of(normal(3, 2, num_workers, 20))
    assert credits.shape == (3, 2, num_workers)
    assert (credits >= 0).all()
    assert (credits.sum(2) <= 1 + 1e-5).all()


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_the_scale_of_the_loss_has_no_effect(scale):
    gradients = normal(3, 2, 6, 30)
    torch.testing.assert_close(rounds_of(gradients * scale, scale=scale), rounds_of(gradients))


@pytest.mark.parametrize("huge", [1e10, 1e30, 3e38])
def test_a_huge_submission_moves_nothing_far(huge):
    gradients = normal(3, 1, 5, 40)
    gradients[:, :, 2] *= huge / gradients[:, :, 2].abs().amax()
    agent, memory = agents.make("set"), Memory(1)
    for number, rows in enumerate(gradients):
        view = job(rows, memory, number)
        decision = agent.decide(view)
        assert decision.credits.isfinite().all()
        assert decision.update.norm() < 10 * 3 * view.qv_gradient.norm()


def test_rejected_submissions_and_zeros_are_no_trouble():
    gradients = normal(3, 2, 5, 40)
    gradients[:, 0, 1] = torch.nan
    gradients[:, 1, :3] = 0
    credits = rounds_of(gradients)
    assert not credits[:, 0, 1].any()
    assert credits.isfinite().all()
    gradients[:] = torch.nan
    assert not rounds_of(gradients).any()


def test_a_submission_that_is_absurdly_long_gets_no_credit():
    view = job(normal(2, 5, 30), Memory(2))
    view.gradients[:, 2] *= 1e6
    credits = agents.make("set").credits(view)
    assert not credits[:, 2].any()
    assert (credits.sum(1) > 0.5).all()


def hidden_from(sketch):
    """A unit vector [d] whose sketch is zero."""
    d, k = sketch.dimension, sketch.size
    assert d % k == 0
    vector = sketch.signs * normal(d, seed=4)
    vector = vector.unflatten(0, (k, d // k))
    hidden = (vector - vector.mean(1, keepdim=True)).flatten() * sketch.signs
    assert sketch(hidden).norm() < 1e-4 * hidden.norm()
    return hidden / hidden.norm()


def test_nobody_hides_a_long_row_behind_a_short_sketch():
    sketch = Sketch(8192, 2048)
    gradients = normal(4, 2, 5, 8192) * 0.2 + normal(4, 2, 1, 8192, seed=1)
    before = rounds_of(gradients)
    gradients[:, :, 0] += 100 * gradients[:, :, :1].norm(dim=3) * hidden_from(sketch)
    after = rounds_of(gradients)
    update = (after[..., None] * gradients).sum(2)
    assert before[..., 0].mean() > 0.1
    assert after[..., 0].max() < 0.01
    assert (update.norm(dim=2) < 2 * gradients[:, :, 1].norm(dim=2)).all()


def test_a_sketch_that_overflows_is_no_trouble():
    gradients = normal(3, 2, 5, 8192)
    gradients[1, :, 0] = 3e38  # finite, but not the sum of four of them
    credits = rounds_of(gradients)
    assert credits.isfinite().all()
    assert (credits[1, :, 0] == 0).all()
    assert (credits[1].sum(1) > 0.5).all()


def test_long_submissions_get_credit_where_the_model_has_fitted_the_qv_samples():
    """The QV gradient is tiny then, and honest ones are not."""
    view = job(normal(2, 5, 30) * 1e9, Memory(2))
    assert (agents.make("set").credits(view) > 0).any(1).all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_jobs_in_other_precisions_get_about_the_same_credits(dtype):
    gradients = normal(1, 2, 5, 30)
    view = job(gradients[0].to(dtype), Memory(2))
    view.theta = view.theta.to(dtype)
    decision = agents.make("set").decide(view)
    assert decision.update.dtype == dtype
    torch.testing.assert_close(decision.credits.float(), rounds_of(gradients)[0], rtol=0.1, atol=0.01)


def test_what_is_asked_twice_is_answered_twice():
    memory, agent = Memory(2), agents.make("set")
    view = job(normal(2, 5, 30), memory)
    first, state = agent.credits(view), memory.state()
    assert torch.equal(agents.make("set").credits(view), first)
    assert all(torch.equal(value, memory.state()[name]) for name, value in state.items())


def test_runs_do_not_touch_each_other():
    gradients = normal(4, 3, 5, 30)
    together = rounds_of(gradients)
    torch.testing.assert_close(rounds_of(gradients[:, 1:2]), together[:, 1:2], rtol=1e-4, atol=1e-6)


def test_an_episode_begins_without_memory():
    def play(simulation, agent):
        credits = [agent.credits(simulation.view)]
        for _ in range(4):
            simulation.apply(agent.decide(simulation.view))
            credits.append(agent.credits(simulation.view))
        return torch.stack(credits)

    arguments = {"num_envs": 2, "seed": 3, "task": "synthetic", "attack": "ipm", "rounds": 5}
    simulation = Simulation.make(**arguments)
    agent = agents.build("set", simulation)
    seeds = [11, 12]
    simulation.reset(seeds)
    first = play(simulation, agent)
    simulation.reset(seeds)
    torch.testing.assert_close(play(simulation, agent), first)
    snapshot = simulation.snapshot()
    after = play(simulation, agent)
    simulation.restore(snapshot)
    torch.testing.assert_close(play(simulation, agent), after)


def test_features_have_their_sizes_and_limits_and_know_no_identity():
    view = job(normal(2, 7, 3000) * 1e3, Memory(2))
    sketch = Sketch(3000, 500)
    features, state = observe(view, sketch, start(2, 7, sketch.size, view.theta))
    assert features.workers.shape == (2, 7, len(COLUMNS))
    assert features.run.shape == (2, PER_RUN)
    assert features.workers.abs().max() <= 5
    assert state["age"].tolist() == [1, 1]
    result = agents.SetAggregator(pretrained=False).network(features, state["hidden"])
    new = remember(state, result.credits, result.hidden)
    assert set(new) == set(state)
    assert not new["credits"].requires_grad


def test_the_gate_shortens_the_step_and_keeps_the_shares():
    view, sketch = job(normal(2, 7, 3000), Memory(2)), Sketch(3000, 500)
    features, state = observe(view, sketch, start(2, 7, sketch.size, view.theta))
    network = agents.SetAggregator(pretrained=False).network
    network.gate.bias.data.fill_(0)
    half = network(features, state["hidden"]).weights
    torch.testing.assert_close(half.sum(1), torch.full((2,), 0.5))
    network.gate.bias.data.fill_(100)
    torch.testing.assert_close(network(features, state["hidden"]).weights, 2 * half)


def test_a_network_that_is_not_trained_follows_the_evidence():
    simulation = Simulation.make(num_envs=4, seed=0, attack="sign_flip")
    agent = agents.SetAggregator(pretrained=False)
    for _ in range(5):
        credits = agent.credits(simulation.view)
        simulation.apply(agent.decide(simulation.view))
    assert (credits * simulation.byzantine).sum() < 0.05 * credits.sum()


def test_it_needs_a_memory_and_the_qv_loss():
    with pytest.raises(ValueError, match="memory"):
        agents.make("set").decide(job(normal(1, 3, 4), None))
    with pytest.raises(ValueError, match="qv_loss"):
        agents.make("set").decide(ServerView(normal(1, 3, 4), torch.zeros(1, 4), 0.1, None, memory=Memory(1)))


@pytest.mark.parametrize("attack", ["sign_flip", "alie", "gaussian"])
def test_a_run_survives_a_malicious_majority(attack):
    accuracy = {}
    for name in ("set", "oracle"):
        simulation = Simulation.make(
            num_envs=3, seed=0, attack=attack, num_byzantine=9, batch_size=16, learning_rate=0.3
        )
        policy = agents.build(name, simulation)
        for _ in range(100):
            simulation.apply(policy.decide(simulation.view))
        accuracy[name] = float(simulation.evaluate()["accuracy"].mean())
    assert accuracy["set"] > 0.93 * accuracy["oracle"]


def test_it_says_that_its_weights_were_never_trained():
    made = agents.make("ensemble", members=["set", "set:pretrained=False"])
    assert repr(made) == "Ensemble([SetAggregator, SetAggregator(pretrained=False)])"
