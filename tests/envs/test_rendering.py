import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import gymnasium as gym
import matplotlib
import matplotlib.style
import numpy as np
import pytest
from matplotlib.figure import Figure

from byzgym.envs.rendering import History, Renderer, VectorRenderer, draw_figure, grid, text_frame

TINY = {"task": "synthetic", "num_workers": 6, "num_byzantine": 2, "attack": "ipm", "rounds": 6}


def make(mode, **arguments):
    return gym.make("ByzantineAggregation-v0", render_mode=mode, **{**TINY, **arguments})


def played(**changes):
    """A history of a reset and one round with four workers, two of them Byzantine and one rejected."""
    info = {
        "qv_loss": 2.0,
        "credits": np.array([0.5, 0.25, 0.0, 0.0]),
        "byzantine": np.array([False, True, True, False]),
        "rejected": np.array([False, False, False, True]),
        "attack": "ipm",
    }
    history = History()
    history.add(info, 0.0, 0.1)
    history.add({**info, "qv_loss": 1.0, **changes}, 0.5, 0.75)
    return history


def test_text():
    assert text_frame(played(), width=8).splitlines() == [
        "round    1  QV loss 1  accuracy 0.750  reward +0.500  Byzantine credit 0.25, zero vector 0.25  "
        "attack ipm",
        "worker  0   0.500 ####",
        "worker  1 x 0.250 ##",
        "worker  2 x 0.000 ",
        "worker  3   rejected",
        "x marks Byzantine workers; the number and the bar show a worker's credit",
    ]
    assert text_frame(History()) == "no round played yet"


@pytest.mark.parametrize("credits", [None, np.full(4, np.nan)])
def test_rounds_without_credits(credits):
    history = played(credits=credits)
    first, worker, *_ = text_frame(history).splitlines()
    assert "no credits" in first
    assert worker == "worker  0   "
    assert Renderer("rgb_array").draw(history).shape == (450, 800, 3)


@pytest.mark.parametrize("style", [{"text.usetex": True}, {"font.family": "STIXGeneral"}, "dark_background"])
def test_frames_ignore_the_users_style(style):
    expected = Renderer("rgb_array").draw(played())
    with matplotlib.rc_context():
        matplotlib.style.use(style)
        chosen = dict(matplotlib.rcParams)
        assert np.array_equal(Renderer("rgb_array").draw(played()), expected)
        assert dict(matplotlib.rcParams) == chosen


def test_threads_leave_the_users_style():
    with matplotlib.rc_context({"lines.linewidth": 7}), ThreadPoolExecutor(3) as pool:
        frames = list(pool.map(lambda _: Renderer("rgb_array").draw(played()), range(3)))
        assert matplotlib.rcParams["lines.linewidth"] == 7
    assert all(np.array_equal(frame, frames[0]) for frame in frames)


@pytest.mark.parametrize("again", [copy.deepcopy, lambda env: pickle.loads(pickle.dumps(env))])
def test_copies_draw_on_their_own(again):
    env = make("rgb_array")
    env.reset(seed=0)
    frame = env.render()
    copied = again(env)
    assert np.array_equal(copied.render(), frame)
    copied.step(np.eye(6)[0])
    assert not np.array_equal(copied.render(), frame)
    assert np.array_equal(env.render(), frame)


def test_frames_show_the_present_episode():
    env = make("ansi")
    for rounds in (3, 1):
        env.reset(seed=0)
        for _ in range(rounds):
            env.step(np.ones(6))
    assert env.render().startswith("round    1 ")


@pytest.mark.parametrize(
    ("losses", "scale"), [([2.0, 0.1], "log"), ([2.0, 0.3], "linear"), ([2.0, 0.0], "linear"), ([], "linear")]
)
def test_axis_of_the_loss(losses, scale):
    history, figure = History(), Figure()
    history.losses, history.accuracies = losses, [0.5] * len(losses)
    draw_figure(figure, history)
    assert figure.axes[1].get_title() == "quasi-validation loss"
    assert figure.axes[1].get_yscale() == scale


def infos_of(num_envs, workers=5, **changes):
    credits = np.random.default_rng(0).dirichlet(np.ones(workers), num_envs)
    masks = {name: np.zeros((num_envs, workers), bool) for name in ("byzantine", "rejected")}
    return {"qv_loss": np.ones(num_envs), "credits": credits, **masks, "final_info": {}, **changes}


@pytest.mark.parametrize(("num_envs", "shape"), [(1, (240, 320, 3)), (5, (240, 320, 3)), (64, (120, 160, 3))])
def test_frames_of_many_environments(num_envs, shape):
    renderer = VectorRenderer(num_envs)
    empty = renderer.draw()
    renderer.record(infos_of(num_envs), np.ones(num_envs, bool))
    frames = renderer.draw()
    assert isinstance(frames, tuple)  # Gymnasium's video wrapper refuses an array
    assert [frame.shape for frame in (*empty, *frames)] == [shape] * (2 * num_envs)
    assert all(frame.dtype == np.uint8 for frame in frames)
    assert not np.array_equal(frames[0], empty[0])


def test_small_frames_show_credits():
    byzantine = np.zeros((3, 5), bool)
    byzantine[2] = True
    credits = np.repeat([[1.0, 0, 0, 0, 0]], 3, 0)
    renderer = VectorRenderer(3)
    present = np.array([True, False, True])
    renderer.record(infos_of(3, byzantine=byzantine, credits=credits, _credits=present), np.ones(3, bool))
    reds = [(frame == (0xC0, 0x39, 0x2B)).all(2).sum() for frame in renderer.draw()]
    blues = [(frame == (0x24, 0x71, 0xA3)).all(2).sum() for frame in renderer.draw()]
    assert blues[0] > blues[1] > blues[2] == 0
    assert reds[:2] == [0, 0]
    assert reds[2] == blues[0]


def test_small_frames_of_extremes():
    renderer = VectorRenderer(3)
    for losses in (np.zeros(3), np.array([np.inf, np.nan, 1e300])):
        renderer.record(infos_of(3, 500, qv_loss=losses, attack=["a" * 99] * 3), np.zeros(3, bool))
    assert len(renderer.draw()) == 3


def test_histories_begin_with_their_episode():
    renderer, infos = VectorRenderer(3), infos_of(3)
    renderer.record(infos, np.ones(3, bool))
    renderer.record(infos, np.array([False, True, False]))
    renderer.record({**infos, "_qv_loss": np.array([True, True, False])}, np.zeros(3, bool))
    assert [history.round for history in renderer.histories] == [2, 1, 1]


@pytest.mark.parametrize(("count", "columns"), [(1, 1), (2, 2), (3, 2), (7, 3), (10, 4)])
def test_grid(count, columns):
    picture = grid([np.full((2, 3, 3), number, np.uint8) for number in range(count)])
    assert picture.shape == (2 * -(-count // columns), 3 * columns, 3)
    tiles = picture.reshape(-1, 2, columns, 3, 3).swapaxes(1, 2).reshape(-1, 18)
    assert tiles[:count].tolist() == [[number] * 18 for number in range(count)]
