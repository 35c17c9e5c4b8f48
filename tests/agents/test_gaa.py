"""GAA learns whom to trust, restarts, can be copied and saved, and survives bad input."""

import copy
import dataclasses
import pickle

import gymnasium as gym
import numpy as np
import pytest
import torch
from agent_cases import assert_on_simplex, make, mix, normal_view, play, view_of

from byzgym import agents, attacks
from byzgym.aggregation import Decision, ServerView
from byzgym.simulation import Simulation

windows = pytest.mark.parametrize("window", [1, 3])
networks = pytest.mark.parametrize("hidden", [(), (8,)])


def gaa(**parameters):
    return agents.make("gaa", **parameters)


def test_learns_whom_to_trust():
    trust, accuracy = {}, {}
    for name in ("gaa", "uniform"):
        simulation = Simulation.make(
            2, 3, task="digits", num_workers=10, num_byzantine=7, attack="sign_flip", rounds=120
        )
        credits = play(agents.make(name), simulation, 120)[-20:].mean(0)
        trust[name] = (credits * ~simulation.byzantine).sum(1)
        accuracy[name] = simulation.evaluate()["accuracy"]
    assert trust["uniform"].tolist() == pytest.approx([0.3, 0.3])
    assert (trust["gaa"] > 0.8).all()
    assert (accuracy["gaa"] > accuracy["uniform"] + 0.2).all()


def slopes_after(theta, qv_loss=lambda theta: 1.5 * theta.square().sum(1), **parameters):
    """Derivatives of the QV loss at ``theta`` by the credits of two workers, who sent 3 and 0 at theta = 1.

    The learning rate is 1, and the QV loss 1.5 theta^2 at first, then ``qv_loss``.
    """
    agent, rows = gaa(window=2, **parameters), torch.tensor([[[3.0], [0.0]]])
    first = ServerView(rows, torch.ones(1, 1), 1.0, lambda theta: 1.5 * theta.square().sum(1))
    for view in (first, ServerView(rows, torch.full((1, 1), theta), 1.0, qv_loss)):
        agent.credits(view)
    ((_, (slopes,)),) = agent._outcomes
    return slopes[0].tolist()


def test_an_honest_step_that_overshoots_is_not_held_against_the_worker():
    # From theta = 1 to -2 the loss rises from 1.5 to 6; its gradient is 3 at the start and -6 at the end.
    assert slopes_after(-2.0) == [-9, 0]
    assert slopes_after(-2.0, after_rise="end") == [18, 0]
    # To 0.5 it falls, and the gradient there is 1.5.
    assert slopes_after(0.5) == slopes_after(0.5, after_rise="end") == [-4.5, 0]


def test_whether_the_loss_has_risen_is_judged_on_the_present_samples():
    # 10 + 1.5 (theta + 2)^2 fell from 23.5 to 10, though 10 is more than the 1.5 on the samples before.
    assert slopes_after(-2.0, lambda theta: 10 + 1.5 * (theta + 2).square().sum(1)) == [0, 0]


@networks
def test_rejected_rows_get_no_credit(hidden):
    simulation, agent = make(num_workers=5), gaa(hidden=hidden)
    for number in range(6):
        crashed = [number % 5, (number + 2) % 5]
        view = simulation.view
        view.gradients[:, crashed], view.rejected[:, crashed] = 0, True
        credits = agent.credits(view)
        assert_on_simplex(credits)
        assert torch.equal(credits == 0, view.rejected)
        simulation.apply(agent.aggregate(view))


@pytest.mark.parametrize("value", [1e30, 3e38])
@networks
@windows
def test_huge_submissions_keep_credits_sound(window, hidden, value):
    attacks.register("huge", lambda: lambda gradients, byzantine, context: torch.full_like(gradients, value))
    simulation, agent = make(num_workers=5, attack="huge"), gaa(window=window, hidden=hidden)
    for _ in range(8):
        decision = agent.decide(simulation.view)
        assert_on_simplex(decision.credits[~simulation.view.rejected.all(1)])
        simulation.apply(decision)


@windows
def test_a_reset_forgets_a_diverged_episode(window):
    simulation, agent = make(num_workers=5), gaa(window=window)
    for _ in range(4):
        simulation.workers.submissions[:] = 3e38
        assert_on_simplex(agent.credits(simulation.view))
        simulation.apply(agent.aggregate(simulation.view))
    other = make(num_workers=5)
    for each in (simulation, other):
        each.reset([5, 6])
    agent.reset()
    assert torch.equal(play(agent, simulation, 5), play(gaa(window=window), other, 5))


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_nonfinite_loss_teaches_nothing(tmp_path, value):
    agent, policies = gaa(), []
    for number in range(4):
        view = normal_view(seed=number)
        view.qv_loss = lambda theta: (theta - 1).square().mean(1) + torch.tensor([0, value])
        assert_on_simplex(agent.credits(view))
        agent.save(tmp_path / "policy.pt")
        policies.append(torch.load(tmp_path / "policy.pt")["policy"])
    for before, after in zip(policies[0], policies[-1], strict=True):
        assert not torch.equal(before[0], after[0])
        assert torch.equal(before[1], after[1])


def test_reset_repeats_the_run():
    agent = gaa()
    first = play(agent, make(), 6)
    agent.reset()
    assert torch.equal(play(agent, make(), 6), first)
    assert not torch.equal(first[0], first[1]), "by default it learns in every round"


def test_learns_from_views_that_count_no_rounds():
    told, untold, simulation = gaa(window=2), gaa(window=2), make()
    for _ in range(6):
        view = simulation.view
        expected = told.credits(view)
        view = dataclasses.replace(view, round=torch.zeros_like(view.round))
        assert torch.equal(untold.credits(view), expected)
        simulation.apply(mix(expected, view.gradients))


def play_with_a_reset(window):
    """Credits after environment 1 of 3 restarted, of it alone, and where nothing restarted."""
    parameters = {"window": window, "learning_rate": 0.05}
    agent, simulation, alone = gaa(**parameters), make(3), make(1)
    play(agent, simulation, 6)
    simulation.reset([99], [1])
    alone.reset([99])
    agent.reset(torch.tensor([False, True, False]))
    credits = play(agent, simulation, 6)
    fresh = play(gaa(**parameters), alone, 6)
    undisturbed = play(gaa(**parameters), make(3), 12)[6:]
    assert (undisturbed[0] - fresh[0]).abs().max(1).values.min() > 0.03, "there was nothing to forget"
    return credits, fresh, undisturbed


@windows
def test_an_environment_that_restarts_forgets(window):
    credits, fresh, _ = play_with_a_reset(window)
    torch.testing.assert_close(credits[:, 1], fresh[:, 0], rtol=1e-4, atol=1e-5)


# The windows of the others end early, so they are not quite where they would be.
@pytest.mark.parametrize(("window", "tolerance"), [(1, 1e-6), (3, 0.025)])
def test_the_others_learn_on_where_one_restarts(window, tolerance):
    credits, _, undisturbed = play_with_a_reset(window)
    torch.testing.assert_close(credits[:, [0, 2]], undisturbed[:, [0, 2]], rtol=0.0, atol=tolerance)


@networks
@windows
def test_a_batch_equals_its_environments_alone(window, hidden):
    parameters = {"window": window, "hidden": hidden, "learning_rate": 0.05}
    batch = play(gaa(**parameters), make(3, 5), 10)
    for e in range(3):
        alone = play(gaa(**parameters), make(1, 5 + e), 10)
        torch.testing.assert_close(batch[:, e], alone[:, 0], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(batch[-1, 0], batch[-1, 1], atol=1e-3)


@windows
def test_asking_twice_changes_nothing(window):
    once = play(gaa(window=window), make(), 6)
    agent, simulation = gaa(window=window), make()
    for expected in once:
        view = simulation.view
        agent.credits(view).zero_()  # the answer is the caller's own
        assert torch.equal(agent.credits(view), expected)
        assert torch.equal(agent.credits(dataclasses.replace(view)), expected)
        torch.testing.assert_close(agent.aggregate(view), mix(expected, view.gradients))
        simulation.apply(mix(expected, view.gradients))


def test_a_job_may_write_over_its_tensors():
    agent, expected, view = gaa(window=2), gaa(window=2), normal_view()
    for _ in range(6):
        credits = agent.credits(view)
        assert torch.equal(credits, expected.credits(copy.deepcopy(view)))
        view.theta -= view.learning_rate[:, None] * mix(credits, view.gradients)
    assert not torch.allclose(credits, gaa().credits(view), atol=1e-3)


def pickled(agent):
    return pickle.loads(pickle.dumps(agent))


@pytest.mark.parametrize("copied", [copy.deepcopy, pickled])
@windows
def test_copies_continue_as_the_original(window, copied):
    """Copies from before and after each of eight rounds; some environments restart before and after that."""
    agent, simulation, copies = gaa(window=window, learning_rate=0.05), make(3), []
    restarts = {4: [1], 5: [1, 2], 11: [0]}
    first = None
    for number in range(20):
        restarted = restarts.get(number, [])
        if restarted:
            simulation.reset([number] * len(restarted), restarted)
            for each in (agent, *copies):
                each.reset(torch.tensor([e in restarted for e in range(3)]))
        if number < 8:
            copies.append(copied(agent))
        expected = agent.credits(simulation.view)
        if number < 8:
            copies.append(copied(agent))
        for each in copies:
            assert torch.equal(each.credits(simulation.view), expected)
        simulation.apply(mix(expected, simulation.view.gradients))
        first = expected if first is None else first
    assert (expected - first).abs().max() > 0.05, "nothing was learned"


@windows
def test_what_it_keeps_does_not_grow(window):
    agent, simulation, sizes = gaa(window=window), make(), set()
    for _ in range(4):
        play(agent, simulation, 2 * window)
        sizes.add(len(pickle.dumps(agent)))
    assert len(sizes) == 1


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_learns_where_gradients_are_disabled(mode):
    expected = play(gaa(), make(), 4)
    with mode():
        credits = play(gaa(), make(), 4)
    assert torch.equal(credits, expected)
    assert not torch.equal(credits[0], credits[3])


def test_a_graph_in_the_view_changes_nothing():
    expected, agent = play(gaa(), make(), 4), gaa()
    simulation = make()
    for credits in expected:
        view = simulation.view
        graph = torch.ones((), requires_grad=True)
        view = dataclasses.replace(view, gradients=view.gradients * graph, theta=view.theta * graph)
        assert torch.equal(agent.credits(view), credits)
        assert not agent.credits(view).requires_grad
        simulation.apply(mix(credits, simulation.view.gradients))


@networks
def test_a_loaded_agent_decides_as_the_saved_one(tmp_path, hidden):
    path = tmp_path / "policy.pt"
    agent, simulation = gaa(hidden=hidden), make()
    play(agent, simulation, 7)
    last = agent.credits(simulation.view)
    for _ in range(2):
        agent.save(path)
    assert list(tmp_path.iterdir()) == [path]
    loaded = gaa(hidden=hidden, seed=1).load(path)
    torch.testing.assert_close(loaded.credits(simulation.view), last, rtol=1e-4, atol=1e-6)
    assert not torch.allclose(gaa(hidden=hidden).credits(simulation.view), last, atol=1e-3)
    runs = []
    for _ in range(2):
        loaded.reset()  # back to what was loaded
        runs.append(play(loaded, make(), 3))
    assert torch.equal(*runs)


def test_one_policy_loads_into_many_environments(tmp_path):
    agent = gaa()
    play(agent, make(1), 5)
    agent.save(tmp_path / "policy.pt")
    credits = [gaa().load(tmp_path / "policy.pt").credits(make(count).view)[0] for count in (1, 3)]
    torch.testing.assert_close(*credits)


def test_save_and_load_say_what_is_wrong(tmp_path):
    path = tmp_path / "policy.pt"
    with pytest.raises(RuntimeError, match="before the first round"):
        gaa().save(path)
    agent = gaa(hidden=(8,))
    agent.credits(normal_view(2, 10))
    agent.save(path)
    with pytest.raises(ValueError, match=r"hidden must be \(8,\) to load .*, got \(\)"):
        gaa().load(path)
    loaded = gaa(hidden=[8]).load(path)
    for num_envs, num_workers in ((2, 9), (3, 10)):
        with pytest.raises(ValueError, match=f"10 submissions in 2 environments, got {num_workers} in"):
            loaded.credits(normal_view(num_envs, num_workers))
    assert_on_simplex(loaded.credits(normal_view(2, 10)))


def test_a_qv_loss_that_cannot_be_differentiated_is_named():
    with pytest.raises(ValueError, match="qv_loss must be differentiable in theta"):
        slopes_after(0.5, lambda theta: theta.detach()[:, 0])


@pytest.mark.parametrize("content", [b"junk", b"", {"other": 1}, [1]])
def test_files_without_a_policy_are_refused(tmp_path, content):
    path = tmp_path / "policy.pt"
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    with pytest.raises(ValueError, match="is not a policy that GAA has saved"):
        gaa().load(path)
    with pytest.raises(FileNotFoundError):
        gaa().load(tmp_path / "nowhere.pt")


WEIGHT, BIAS = torch.zeros(1, 2, 8), torch.zeros(1, 2, 1)  # of two workers


@pytest.mark.parametrize(
    "policy",
    [
        "text",
        [],
        [WEIGHT, "text"],
        [BIAS],
        [WEIGHT, BIAS, BIAS],
        [WEIGHT[0], BIAS[0]],
        [WEIGHT[..., :7], BIAS],
        [WEIGHT.repeat(2, 1, 1), BIAS],
        [WEIGHT[:0], BIAS[:0]],
        [WEIGHT.long(), BIAS],
        [WEIGHT / 0, BIAS],
    ],
)
def test_policies_of_another_form_are_refused(tmp_path, policy):
    torch.save({"hidden": [], "policy": [WEIGHT, BIAS]}, tmp_path / "policy.pt")
    assert_on_simplex(gaa().load(tmp_path / "policy.pt").credits(normal_view(num_workers=2)))
    torch.save({"hidden": [], "policy": policy}, tmp_path / "policy.pt")
    with pytest.raises(ValueError, match=r"policy\.pt is not a policy that GAA has saved"):
        gaa().load(tmp_path / "policy.pt")


def test_a_view_of_another_form_starts_anew():
    agent = gaa()
    play(agent, make(num_workers=5), 3)
    views = [view_of(torch.ones(shape)) for shape in ((2, 5, 9), (3, 4, 9), (1, 4, 2))]
    for view in (*views, view_of(torch.ones(1, 4, 2, dtype=torch.float64))):
        assert torch.equal(agent.credits(view), gaa().credits(view))


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"window": 0}, "window must be an integer of at least 1, got 0"),
        ({"learning_rate": 0}, "learning_rate"),
        ({"hidden": 8}, "hidden must be a list of widths, got 8"),
        ({"hidden": (8, 0)}, "hidden"),
        ({"seed": -1}, "seed"),
        ({"after_rise": "middle"}, "after_rise must be one of 'start', 'end', got 'middle'"),
    ],
)
def test_parameters_are_checked(parameters, message):
    with pytest.raises(ValueError, match=message):
        gaa(**parameters)


# Starting from another policy's credits


def started(credits):
    """What GAA makes of the credits of ``start`` before it has learned anything."""
    total = credits.sum(1, keepdim=True)
    floored = torch.where(total > 0, credits / total, credits) + 0.001
    return floored / floored.sum(1, keepdim=True)


@networks
@pytest.mark.parametrize("start", ["krum", "uniform", "fixed:credits=[0,1,1,0,0,2]"])
def test_it_begins_with_the_credits_of_its_start(start, hidden):
    simulation = make()
    credits = agents.build({"name": "gaa", "start": start, "hidden": hidden}, simulation).credits(
        simulation.view
    )
    expected = agents.build(start, simulation).credits(simulation.view)
    # Submissions that are longer than the update and the QV gradient get less than the floor.
    torch.testing.assert_close(credits, started(expected), rtol=0, atol=3e-3)


def test_what_it_learns_corrects_every_round_of_its_start():
    """The start moves its credit from worker to worker. GAA learns that the first one is good."""

    class Moving:
        def credits(self, view):
            return torch.eye(3)[view.round % 3]

    agent, first = gaa(start=Moving(), learning_rate=0.1), []
    rows = torch.tensor([[[-1.0, -1.0], [1.0, 1.0], [1.0, 1.0]]]).repeat(
        2, 1, 1
    )  # the loss falls along row 0
    for number in range(60):
        view = view_of(rows)
        view.round = torch.full((2,), number)
        first.append(agent.credits(view)[:, 0])
    assert (first[0] > 0.99).all()
    assert (torch.stack(first[1:3]) < 0.01).all()
    assert (torch.stack(first[-3:]) > 0.9).all()


def test_a_start_without_any_credit_gives_all_the_same_but_less_to_long_submissions():
    class Nothing:
        def credits(self, view):
            return torch.zeros_like(view.previous_credits)

    rows = torch.tensor([[[0.1, 0.0], [0.0, 0.1], [-1e20, 0.0]]])
    credits = gaa(start=Nothing()).credits(view_of(rows))
    torch.testing.assert_close(credits, torch.tensor([[0.5, 0.5, 0.0]]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_start_without_any_credit_in_other_precisions(dtype):
    class Nothing:
        def credits(self, view):
            return torch.zeros_like(view.previous_credits)

    view = view_of(torch.tensor([[[0.1, 0.0], [0.0, 0.1], [-1.0, 0.0]]], dtype=dtype))
    assert gaa(start=Nothing()).credits(view).isfinite().all()


def test_a_submission_without_credit_that_is_far_too_long_moves_nothing():
    class First:
        def credits(self, view):
            return torch.tensor([[1.0, 0.0, 0.0]])

    rows = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [-1e20, 0.0]]])
    credits = gaa(start=First()).credits(view_of(rows))
    assert credits[0, 1] == pytest.approx(0.001, rel=0.01)
    assert credits[0, 2] * 1e20 == pytest.approx(0.001, rel=3)  # at most a thousandth of the usual length


def test_a_start_survives_a_majority_of_huge_submissions():
    """A uniform first round moves the parameters far away; see docs/gaa.md."""
    losses = {}
    for spec in ("gaa", "gaa:start=krum"):
        simulation = make(task="digits", num_workers=10, num_byzantine=6, attack="gaussian")
        simulation.apply(agents.build(spec, simulation).decide(simulation.view))
        losses[spec] = simulation.qv_loss()
    assert (losses["gaa:start=krum"] < 10).all()
    assert (losses["gaa"] > 100).all()


@windows
def test_a_batch_with_a_start_equals_its_environments_alone(window):
    spec = {"name": "gaa", "start": "trust", "window": window, "learning_rate": 0.05}
    simulation = make(3, 5)
    batch = play(agents.build(spec, simulation), simulation, 8)
    for e in range(3):
        simulation = make(1, 5 + e)
        alone = play(agents.build(spec, simulation), simulation, 8)
        torch.testing.assert_close(batch[:, e], alone[:, 0], rtol=1e-3, atol=1e-5)


def test_its_start_is_told_f_reset_and_asked_once_a_round():
    class Start:
        def __init__(self, num_byzantine):
            self.num_byzantine, self.resets, self.asked = num_byzantine, [], 0

        def reset(self, envs=None):
            self.resets.append(envs)

        def credits(self, view):
            self.asked += 1
            return torch.ones_like(view.previous_credits) / 6

    agents.register("test_start", Start)
    simulation = make(num_byzantine=1)
    agent = agents.build("gaa:start=test_start", simulation)
    play(agent, simulation, 3)
    start, envs = agent.start.policy, torch.tensor([True, False])
    agent.credits(simulation.view)
    agent.credits(simulation.view)
    agent.reset(envs)
    assert (start.num_byzantine, start.asked, start.resets[-1] is envs) == (1, 4, True)


def test_a_start_without_credits_is_refused():
    class Late:
        def decide(self, view):
            return Decision(view.gradients.mean(1))

    with pytest.raises(ValueError, match="start must be a policy with credits, got median"):
        gaa(start="median")
    with pytest.raises(ValueError, match=r"start must not be a reference.*got oracle"):
        gaa(start="oracle")
    with pytest.raises(ValueError, match=r"got Ensemble\(\[krum, median\]\), whose decisions have none"):
        gaa(start="ensemble:members=krum+median")
    agent = gaa(start=Late())
    for _ in range(2):
        with pytest.raises(ValueError, match="start must be a policy with credits, got Late"):
            agent.credits(normal_view())


@pytest.mark.parametrize(
    ("start", "error", "message"),
    [
        ("nope", ValueError, "^start: unknown agent 'nope'; known: .*krum"),
        ("", ValueError, "^start: expected 'name' or .*, got ''"),
        (3, TypeError, "^start: agent must be 'name', .*, got 3"),
        ("krum:f=1", TypeError, "^start: rule 'krum': .*'f'; its parameters: num_byzantine"),
        ("gaa:window=0", ValueError, "^start: window must be an integer of at least 1, got 0"),
        ("gaa:start=oracle", ValueError, "^start: start must not be a reference"),
        ("ensemble:members=krum+nope", ValueError, r"^start: members\[1\]: unknown agent 'nope'"),
        ("multi_krum:num_selected=99", ValueError, "^start: num_selected must be an integer .*, got 99"),
        ("model:nope.zip", FileNotFoundError, r"^start: .*nope\.zip"),
    ],
)
def test_what_cannot_be_a_start(start, error, message):
    with pytest.raises(error, match=message):
        agents.build({"name": "gaa", "start": start}, make())


def test_a_start_that_fails_in_a_round_is_named():
    agent = gaa(start="fixed:credits=[1, 2]")
    with pytest.raises(ValueError, match="credits must have 10 entries, got 2") as caught:
        agent.credits(normal_view())
    assert caught.value.__notes__ == ["raised by start"]


def test_a_reset_after_a_look_is_a_reset():
    """The last observation of an episode may be looked at without a step."""

    def play_episode(agent, seed):
        observation, _ = env.reset(seed=seed)
        actions = []
        for _ in range(4):
            actions.append(agent.predict(observation)[0])
            observation = env.step(actions[-1])[0]
        agent.predict(observation)
        return actions

    arguments = {"task": "synthetic", "num_workers": 6, "num_byzantine": 3, "attack": "sign_flip"}
    env = gym.make("ByzantineAggregation-v0", **arguments)
    agent = gaa().bind(env)
    fresh = play_episode(agent, seed=1)
    play_episode(agent, seed=0)
    np.testing.assert_array_equal(play_episode(agent, seed=1), fresh)
