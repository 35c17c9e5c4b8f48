"""GAA against a slow and plain re-implementation, and what an online learner must survive."""

import dataclasses
import math

import pytest
import torch
from agent_cases import assert_on_simplex, make, mix, normal_view, play, view_of
from torch import nn
from torch.nn import functional as F

from byzgym import agents
from byzgym.agents.gaa import _log_and_sign
from byzgym.simulation import Simulation


def andrychowicz(g):
    """The preprocessing of appendix A, entry by entry, with p = 10."""
    if abs(g) >= math.exp(-10):
        return math.log(abs(g)) / 10, math.copysign(1.0, g)
    return -1.0, math.exp(10) * g


def loss_feature(loss):
    """The QV loss as the policy sees it."""
    return loss.log1p()


class SlowGAA:
    """One environment's GAA with nn.Linear, explicit features [d, 3 n + 2] and torch.optim.Adam."""

    def __init__(self, weights, qv_loss, window, learning_rate):
        layers = []
        for weight, bias in zip(weights[::2], weights[1::2], strict=True):
            layer = nn.utils.skip_init(nn.Linear, weight.shape[1], weight.shape[0])
            with torch.no_grad():
                layer.weight.copy_(weight)
                layer.bias.copy_(bias[:, 0])
            layers += [layer, nn.ReLU()]
        self.network = nn.Sequential(*layers[:-1])
        self.adam = torch.optim.Adam(self.network.parameters(), lr=learning_rate)
        self.qv_loss, self.window = qv_loss, window
        self.steps, self.largest_gradient = None, 0.0

    def credits(self, gradients, theta, learning_rate):
        gradients = gradients.clone()  # the simulation writes over its own
        if self.steps is not None:
            torch.testing.assert_close(self.theta.detach(), theta)
            loss = self.qv_loss(self.theta)
            self.losses.append(loss)
            if self.steps == self.window:
                self.learn()
        if self.steps is None:
            self.theta, self.steps, self.losses = theta.clone(), 0, []
            loss = self.qv_loss(theta)
            last = torch.full((len(gradients),), 1 / len(gradients))
            self.last = self.last.detach() if hasattr(self, "last") else last
        rows = []
        for j in range(len(theta)):
            pairs = [andrychowicz(g) for g in gradients[:, j].tolist()]
            numbers = [pair[0] for pair in pairs] + [pair[1] for pair in pairs] + [float(theta[j])]
            rows.append(torch.cat([torch.tensor(numbers), loss_feature(loss)[None], self.last]))
        self.last = torch.softmax(self.network(torch.stack(rows)).mean(0), 0)
        self.theta = self.theta - learning_rate * (self.last @ gradients)
        self.steps += 1
        return self.last.detach()

    def learn(self):
        self.adam.zero_grad()
        sum(self.losses).backward()
        for parameter in self.network.parameters():
            self.largest_gradient = max(self.largest_gradient, float(parameter.grad.abs().max()))
            parameter.grad.clamp_(-1, 1)
        self.adam.step()
        self.steps = None


def plain_qv_loss(simulation, env):
    """Cross entropy of a 2-3-3 MLP with ReLU on the environment's own QV samples."""
    x, y = simulation.quasi_validation.x[env], simulation.quasi_validation.y[env]

    def loss(theta):
        first, bias, second, out = theta.split([6, 3, 9, 3])
        hidden = F.relu(F.linear(x, first.view(3, 2), bias))
        return F.cross_entropy(F.linear(hidden, second.view(3, 3), out), y)

    return loss


def small(num_envs=1, seed=4, **arguments):
    task = {"name": "synthetic", "num_features": 2}
    return make(num_envs, seed, **{"task": task, "model": "mlp:3", "num_workers": 4, **arguments})


def initial_weights(path, view, **parameters):
    """The weights of a fresh policy: nothing has been learned in the first round."""
    agent = agents.make("gaa", **parameters)
    agent.credits(view)
    agent.save(path)
    return torch.load(path, weights_only=True)["policy"]


def compare_with_slow(path, num_envs, learning_rate, **parameters):
    """Ten rounds of both; how far the credits went, and the largest gradient before the clamp."""
    simulation = small(num_envs, learning_rate=learning_rate)
    parameters["learning_rate"] = 0.05
    weights = initial_weights(path, simulation.view, **parameters)
    slow = [
        SlowGAA([w[e] for w in weights], plain_qv_loss(simulation, e), parameters["window"], 0.05)
        for e in range(num_envs)
    ]
    agent, first = agents.make("gaa", **parameters), None
    for _ in range(10):
        view = simulation.view
        credits = agent.credits(view)
        first = credits if first is None else first
        for e in range(num_envs):
            expected = slow[e].credits(view.gradients[e], view.theta[e], learning_rate)
            torch.testing.assert_close(credits[e], expected, rtol=1e-4, atol=5e-6)
        simulation.apply(mix(credits, view.gradients), credits)
    return (credits - first).abs().max(), max(s.largest_gradient for s in slow)


@pytest.mark.parametrize("hidden", [(), (8,)])
@pytest.mark.parametrize("window", [1, 3])
@pytest.mark.parametrize("num_envs", [1, 3])
def test_credits_equal_those_of_the_slow_implementation(tmp_path, num_envs, window, hidden):
    moved, _ = compare_with_slow(tmp_path / "policy.pt", num_envs, 0.3, window=window, hidden=hidden)
    assert moved > 0.02, "nothing was learned, so nothing was compared"


@pytest.mark.parametrize("hidden", [(), (8,)])
def test_gradients_are_clamped_to_one(tmp_path, hidden):
    _, largest = compare_with_slow(tmp_path / "policy.pt", 3, 0.6, window=3, hidden=hidden)
    assert largest > 2, "no gradient met the clamp"


def test_without_hidden_layers_the_initial_weights_are_those_of_torch_linear(tmp_path):
    weight, bias = initial_weights(tmp_path / "policy.pt", normal_view(), seed=3)
    assert weight.shape == (2, 10, 32)
    assert bias.shape == (2, 10, 1)
    assert torch.equal(weight[0], weight[1])
    for values in (weight, bias):
        assert 0.6 * 32**-0.5 < values.abs().max() <= 32**-0.5
    other = initial_weights(tmp_path / "policy.pt", normal_view(), seed=4)
    assert not torch.equal(weight, other[0])


ENTRIES = [0.0, 1e-38, -1e-38, 1e-6, -1e-6, 4e-5, 5e-5, -5e-5, 0.3, -1.0, 7.0, -1e10, 1e30, -3e38]


def test_preprocessing_by_hand():
    expected = torch.tensor([andrychowicz(g) for g in ENTRIES]).T
    assert expected[:, 0].tolist() == [-1, 0]
    rows = torch.tensor(ENTRIES)[None, None]
    torch.testing.assert_close(_log_and_sign(rows, pooled=False)[0], expected, rtol=1e-5, atol=1e-7)
    pooled = _log_and_sign(rows, pooled=True)
    torch.testing.assert_close(pooled[0], expected.mean(1, keepdim=True), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("dimension", [1, 7, 8, 9, 100])
def test_pooled_preprocessing_is_the_mean_of_that_of_all_entries(dimension):
    rows = torch.randn(3, 5, dimension, generator=torch.Generator().manual_seed(0)) * 1e-2
    rows[1, 2] *= 1e30  # products of such entries overflow
    rows[2, 0] = 0
    expected = _log_and_sign(rows, pooled=False).mean(2, keepdim=True)
    torch.testing.assert_close(_log_and_sign(rows, pooled=True), expected, rtol=1e-5, atol=1e-6)
    alone = torch.cat([_log_and_sign(rows[e : e + 1], pooled=True) for e in range(3)])
    assert torch.equal(_log_and_sign(rows, pooled=True), alone)


def test_preprocessing_keeps_the_submissions():
    view = normal_view()
    before = view.gradients.clone()
    for hidden in ((), (4,)):
        agents.make("gaa", hidden=hidden).credits(view)
        assert torch.equal(view.gradients, before)


def test_learns_whom_to_trust():
    def make_digits():
        return Simulation.make(
            2, 3, task="digits", num_workers=10, num_byzantine=7, attack="sign_flip", rounds=120
        )

    byzantine = {}
    for name in ("gaa", "uniform"):
        simulation = make_digits()
        credits = play(agents.make(name), simulation, 120)
        byzantine[name] = (credits[-20:].mean(0) * simulation.byzantine).sum(1), simulation.evaluate()
    assert byzantine["uniform"][0].tolist() == pytest.approx([0.7, 0.7])
    assert (byzantine["gaa"][0] < 0.2).all()
    accuracy = {name: metrics["accuracy"] for name, (_, metrics) in byzantine.items()}
    assert (accuracy["gaa"] > accuracy["uniform"] + 0.2).all()


@pytest.mark.parametrize("hidden", [(), (8,)])
@pytest.mark.parametrize("window", [1, 3])
def test_credits_are_on_the_simplex_and_rejected_rows_get_none(window, hidden):
    simulation = make(num_workers=5)
    agent = agents.make("gaa", window=window, hidden=hidden)
    for number in range(6):
        crashed = [number % 5, (number + 2) % 5]
        simulation.workers.submissions[:, crashed] = torch.nan
        view = simulation.view
        assert view.rejected[:, crashed].all()
        credits = agent.credits(view)
        assert_on_simplex(credits)
        assert (credits[view.rejected] == 0).all()
        assert (credits[~view.rejected] > 0).all()
        torch.testing.assert_close(agent.aggregate(view), mix(credits, view.gradients))
        simulation.apply(mix(credits, view.gradients), credits)


@pytest.mark.parametrize("value", [1e30, -1e30, 3e38])
@pytest.mark.parametrize("hidden", [(), (8,)])
@pytest.mark.parametrize("window", [1, 3])
def test_huge_submissions_never_break_the_credits(window, hidden, value):
    simulation = make(num_workers=5)
    agent = agents.make("gaa", window=window, hidden=hidden)
    for _ in range(8):
        simulation.workers.submissions[:, :2] = value
        credits = agent.credits(simulation.view)
        assert_on_simplex(credits)
        simulation.apply(agent.aggregate(simulation.view), credits)


@pytest.mark.parametrize("window", [1, 3])
@pytest.mark.parametrize("hidden", [(), (8,)])
def test_recovers_from_an_episode_that_diverged(window, hidden):
    simulation = make(num_workers=5)
    agent = agents.make("gaa", window=window, hidden=hidden)
    for _ in range(4):
        simulation.workers.submissions[:] = 3e38
        credits = agent.credits(simulation.view)
        assert_on_simplex(credits)
        simulation.apply(agent.aggregate(simulation.view), credits)
    simulation.reset([5, 6])
    again = make(num_workers=5)
    again.reset([5, 6])
    fresh = agents.make("gaa", window=window, hidden=hidden)
    torch.testing.assert_close(play(agent, simulation, 5), play(fresh, again, 5))


def test_a_loss_that_is_not_a_number_teaches_nothing_and_spoils_nothing():
    agent = agents.make("gaa")
    for number in range(4):
        view = normal_view(seed=number)
        view.round += number
        view.qv_loss = lambda theta: (theta - 1).square().mean(1) * torch.tensor([1.0, torch.nan])
        assert_on_simplex(agent.credits(view))


def test_reset_repeats_the_run():
    agent = agents.make("gaa", window=2)
    first = play(agent, make(), 6)
    agent.reset()
    assert torch.equal(play(agent, make(), 6), first)
    assert not torch.equal(first[0], first[-1])


def test_round_zero_resets_by_itself():
    agent = agents.make("gaa", window=2)
    simulation = make()
    play(agent, simulation, 5)
    simulation.reset([8, 9])
    again = make()
    again.reset([8, 9])
    torch.testing.assert_close(play(agent, simulation, 5), play(agents.make("gaa", window=2), again, 5))


def test_learns_where_the_round_is_not_told():
    agents_ = agents.make("gaa", window=2), agents.make("gaa", window=2)
    simulation = make()
    for number in range(6):
        view = simulation.view
        expected = agents_[0].credits(view).clone()
        untold = dataclasses.replace(view, round=torch.zeros_like(view.round))
        assert torch.equal(agents_[1].credits(untold), expected), number
        simulation.apply(mix(expected, view.gradients), expected)


def play_with_a_reset(window, by_mask):
    """Credits after environment 1 of 3 began anew, of it alone, and where nothing began anew."""
    parameters = {"window": window, "learning_rate": 0.05}
    agent, simulation = agents.make("gaa", **parameters), make(3)
    play(agent, simulation, 6)
    simulation.reset([99], [1])
    if by_mask:
        agent.reset(torch.tensor([False, True, False]))
    credits = play(agent, simulation, 6)
    alone = make(1)
    alone.reset([99])
    fresh = play(agents.make("gaa", **parameters), alone, 6)
    undisturbed = play(agents.make("gaa", **parameters), make(3), 12)[6:]
    assert (undisturbed[0] - fresh[0]).abs().max(1).values.min() > 0.03, "there was nothing to forget"
    return credits, fresh, undisturbed


@pytest.mark.parametrize("window", [1, 3])
@pytest.mark.parametrize("by_mask", [True, False])
def test_an_environment_that_begins_anew_forgets(window, by_mask):
    credits, fresh, _ = play_with_a_reset(window, by_mask)
    torch.testing.assert_close(credits[:, 1], fresh[:, 0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("by_mask", [True, False])
def test_the_others_learn_on_where_one_begins_anew(by_mask):
    credits, _, undisturbed = play_with_a_reset(1, by_mask)
    torch.testing.assert_close(credits[:, [0, 2]], undisturbed[:, [0, 2]])


@pytest.mark.parametrize("by_mask", [True, False])
def test_the_others_keep_their_policy_where_one_begins_anew(by_mask):
    # Their window ends early, so they are not quite where they would be.
    credits, _, undisturbed = play_with_a_reset(3, by_mask)
    torch.testing.assert_close(credits[:, [0, 2]], undisturbed[:, [0, 2]], rtol=0.0, atol=0.025)


@pytest.mark.parametrize("window", [1, 3])
@pytest.mark.parametrize("hidden", [(), (8,)])
def test_an_environment_of_a_batch_equals_that_environment_alone(window, hidden):
    parameters = {"window": window, "hidden": hidden, "learning_rate": 0.05}
    batch = play(agents.make("gaa", **parameters), make(3, 5), 10)
    for e in range(3):
        alone = play(agents.make("gaa", **parameters), make(1, 5 + e), 10)
        torch.testing.assert_close(batch[:, e], alone[:, 0], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(batch[-1, 0], batch[-1, 1], atol=1e-3)


@pytest.mark.parametrize("window", [1, 3])
def test_asking_twice_changes_nothing(window):
    once = play(agents.make("gaa", window=window), make(), 6)
    agent, simulation = agents.make("gaa", window=window), make()
    for expected in once:
        credits = agent.credits(simulation.view).clone()
        update = agent.aggregate(simulation.view)
        assert torch.equal(agent.credits(simulation.view), credits)
        assert torch.equal(credits, expected)
        torch.testing.assert_close(update, mix(credits, simulation.gradients))
        simulation.apply(mix(credits, simulation.gradients), credits)


def test_learns_without_gradients_being_enabled():
    expected = play(agents.make("gaa"), make(), 4)
    with torch.no_grad():
        credits = play(agents.make("gaa"), make(), 4)
    assert torch.equal(credits, expected)
    assert not credits.requires_grad
    assert not agents.make("gaa").aggregate(make().view).requires_grad


@pytest.mark.parametrize("hidden", [(), (8,)])
@pytest.mark.parametrize("window", [1, 3])
def test_save_and_load(tmp_path, window, hidden):
    path = tmp_path / "policy.pt"
    agent, simulation = agents.make("gaa", window=window, hidden=hidden), make()
    play(agent, simulation, 7)
    last = agent.credits(simulation.view)
    agent.save(path)
    loaded = agents.make("gaa", window=window, hidden=hidden, seed=1).load(path)
    torch.testing.assert_close(loaded.credits(simulation.view), last, rtol=1e-4, atol=1e-6)
    fresh = agents.make("gaa", hidden=hidden).credits(simulation.view)
    assert not torch.allclose(fresh, last, atol=1e-3)
    # A reset goes back to what was loaded.
    play(loaded, simulation, 3)
    simulation.reset([1, 2])
    start = agents.make("gaa", hidden=hidden).load(path).credits(simulation.view)
    torch.testing.assert_close(loaded.credits(simulation.view), start)


def test_a_policy_of_one_environment_loads_into_many(tmp_path):
    agent, simulation = agents.make("gaa"), make(1)
    play(agent, simulation, 5)
    agent.save(tmp_path / "policy.pt")
    credits = agents.make("gaa").load(tmp_path / "policy.pt").credits(make(3).view)
    alone = agents.make("gaa").load(tmp_path / "policy.pt").credits(make(1).view)
    torch.testing.assert_close(credits[0], alone[0])


def test_save_and_load_say_what_is_wrong(tmp_path):
    path = tmp_path / "policy.pt"
    with pytest.raises(RuntimeError, match="before the first round"):
        agents.make("gaa").save(path)
    agent = agents.make("gaa", hidden=(8,))
    agent.credits(normal_view(2, 10))
    agent.save(path)
    with pytest.raises(ValueError, match=r"hidden must be \(8,\) to load .*, got \(\)"):
        agents.make("gaa").load(path)
    loaded = agents.make("gaa", hidden=[8]).load(path)
    for num_envs, num_workers in ((2, 9), (3, 10)):
        with pytest.raises(ValueError, match=f"10 submissions in 2 environments, got {num_workers} in"):
            loaded.credits(normal_view(num_envs, num_workers))
    assert_on_simplex(loaded.credits(normal_view(2, 10)))


def test_a_saved_policy_is_a_copy(tmp_path):
    agent, simulation = agents.make("gaa"), make()
    agent.credits(simulation.view)
    agent.save(tmp_path / "policy.pt")
    loaded = agents.make("gaa").load(tmp_path / "policy.pt")
    start = loaded.credits(simulation.view).clone()
    play(loaded, simulation, 5)
    loaded.reset()
    simulation = make()
    torch.testing.assert_close(loaded.credits(simulation.view), start)


def test_another_number_of_workers_starts_anew():
    agent = agents.make("gaa")
    play(agent, make(num_workers=5), 3)
    for shape in ((2, 5, 9), (3, 4, 9), (1, 4, 2)):
        view = view_of(torch.ones(shape))
        assert torch.equal(agent.credits(view), agents.make("gaa").credits(view))


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"window": 0}, "window must be an integer of at least 1, got 0"),
        ({"window": 1.5}, "window must be an integer"),
        ({"learning_rate": 0}, "learning_rate must be a finite number greater than 0"),
        ({"learning_rate": float("nan")}, "learning_rate"),
        ({"hidden": (8, 0)}, "hidden must be an integer of at least 1, got 0"),
        ({"seed": -1}, "seed must be an integer of at least 0"),
    ],
)
def test_parameters_are_checked(parameters, message):
    with pytest.raises(ValueError, match=message):
        agents.make("gaa", **parameters)


def test_unknown_parameters_are_refused():
    with pytest.raises(TypeError, match="window"):
        agents.make("gaa", windows=3)
