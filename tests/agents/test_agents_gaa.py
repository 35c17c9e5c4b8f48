"""What GAA, an online learner, must do and survive."""

import dataclasses

import gymnasium as gym
import numpy as np
import pytest
import torch
from agent_cases import assert_on_simplex, make, mix, normal_view, play, view_of

from byzgym import agents
from byzgym.simulation import Simulation


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


def test_by_default_it_learns_in_every_round():
    assert agents.make("gaa").window == 1
    credits = play(agents.make("gaa"), make(), 4)
    assert torch.equal(credits, play(agents.make("gaa", window=1), make(), 4))
    assert not torch.equal(credits, play(agents.make("gaa", window=2), make(), 4))


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
        ({"hidden": (8, 0)}, r"hidden \(each\) must be an integer of at least 1, got 0"),
        ({"seed": -1}, "seed must be an integer of at least 0"),
    ],
)
def test_parameters_are_checked(parameters, message):
    with pytest.raises(ValueError, match=message):
        agents.make("gaa", **parameters)


def test_unknown_parameters_are_refused():
    with pytest.raises(TypeError, match="window"):
        agents.make("gaa", windows=3)


def test_it_learns_in_inference_mode_as_outside():
    runs = []
    for mode in (False, True):
        simulation, agent = make(num_workers=5), agents.make("gaa")
        trace = []
        with torch.inference_mode(mode):
            for _ in range(4):
                credits = agent.credits(simulation.view)
                trace.append(credits.clone())
                simulation.apply(mix(credits, simulation.gradients), credits)
        runs.append(torch.stack(trace))
    assert torch.equal(*runs)
    assert not torch.equal(runs[0][0], runs[0][3])


@pytest.mark.parametrize("content", [b"junk", None])
def test_files_that_hold_no_policy_are_refused(tmp_path, content):
    path = tmp_path / "policy.pt"
    path.write_bytes(content) if content else torch.save({"other": 1}, path)
    with pytest.raises(ValueError, match="is not a policy that GAA has saved"):
        agents.make("gaa").load(path)
    with pytest.raises(FileNotFoundError):
        agents.make("gaa").load(tmp_path / "nowhere.pt")


def test_a_reset_after_a_look_is_a_reset():
    """Asked once more in the round before a reset, it still begins the next episode with a fresh policy."""

    def play(env, agent, seed):
        observation, _ = env.reset(seed=seed)
        actions = []
        for _ in range(4):
            actions.append(agent.predict(observation)[0])
            observation = env.step(actions[-1])[0]
        return observation, np.array(actions)

    arguments = {"task": "synthetic", "num_workers": 6, "num_byzantine": 3, "attack": "sign_flip"}
    env = gym.make("ByzantineAggregation-v0", **arguments)
    agent = agents.make("gaa").bind(env)
    fresh = play(env, agent, seed=1)[1]
    observation, _ = play(env, agent, seed=0)
    agent.predict(observation)
    np.testing.assert_array_equal(play(env, agent, seed=1)[1], fresh)
