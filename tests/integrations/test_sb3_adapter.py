"""The vector environment as stable-baselines3 sees it."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.wrappers.vector import RecordEpisodeStatistics
from stable_baselines3.common.env_checker import check_env
from stable_baselines3.common.vec_env import VecMonitor, VecNormalize

from byzgym.integrations.sb3 import CutAtFloor, VecEnvAdapter, make_vec_env
from byzgym.wrappers import SoftmaxCredits, VectorSoftmaxCredits

pytestmark = pytest.mark.global_rng

ID = "ByzantineAggregation-v0"
ALL = {"observation": "all"}


@pytest.mark.parametrize("arguments", [{}, ALL, {"action": "null_slot"}])
@pytest.mark.parametrize("softmax", [False, True])
def test_check_env(tiny, recwarn, arguments, softmax):
    env = gym.make(ID, **tiny, **arguments)
    check_env(SoftmaxCredits(env) if softmax else env)
    # Rows per worker are the point of the observation, and credits lie in [0, 1].
    allowed = ["unconventional shape"] + ([] if softmax else ["symmetric and normalized Box action space"])
    unexpected = [str(w.message) for w in recwarn if not any(text in str(w.message) for text in allowed)]
    assert not unexpected


@pytest.mark.filterwarnings("error")
def test_check_env_without_a_warning(tiny):
    check_env(SoftmaxCredits(gym.make(ID, **tiny, observation=["norms", "trust", "loss"])))


@pytest.mark.parametrize("arguments", [{}, ALL])
def test_parity_with_the_native_environment(tiny, arguments):
    native = gym.make_vec(ID, num_envs=3, autoreset_mode="SameStep", **tiny, **arguments)
    adapter = make_vec_env(3, seed=7, **tiny, **arguments)
    expected = native.reset(seed=7)[0]
    obtained = adapter.reset()
    rng = np.random.default_rng(0)
    for _ in range(12):
        _assert_same(obtained, expected)
        actions = rng.dirichlet(np.ones(4), 3).astype(np.float32)
        expected, rewards, terminated, truncated, infos = native.step(actions)
        obtained, rewards_here, dones, listed = adapter.step(actions)
        assert rewards_here.dtype == np.float32
        np.testing.assert_array_equal(rewards_here, rewards.astype(np.float32))
        np.testing.assert_array_equal(dones, terminated | truncated)
        for env, info in enumerate(listed):
            source = infos["final_info"] if dones[env] else infos
            np.testing.assert_array_equal(info["credits"], source["credits"][env])
            assert info["qv_loss"] == source["qv_loss"][env]
            assert info["TimeLimit.truncated"] is bool(truncated[env])
            assert ("terminal_observation" in info) == ("accuracy" in info) == bool(dones[env])


@pytest.mark.parametrize("arguments", [{}, ALL])
def test_terminal_observation_is_the_last_one(tiny, arguments):
    short, long = (make_vec_env(2, seed=3, **{**tiny, **arguments, "rounds": rounds}) for rounds in (4, 5))
    short.reset()
    long.reset()
    action = np.eye(4, dtype=np.float32)[:2]
    for _ in range(4):
        first, _, dones, infos = short.step(action)
        following, _, going, _ = long.step(action)
    assert dones.all()
    assert not going.any()
    for env in range(2):
        last = infos[env]["terminal_observation"]
        row = {k: v[env] for k, v in following.items()} if arguments else following[env]
        if arguments:  # the share of rounds played differs with their number
            last, row = ({k: v for k, v in o.items() if k != "progress"} for o in (last, row))
        _assert_same(last, row)
    fresh = first["pooled"] if arguments else first
    assert not np.array_equal(fresh, following["pooled"] if arguments else following)


def test_divergence_is_no_time_limit(tiny):
    import torch

    env = make_vec_env(2, seed=0, **tiny)
    env.reset()
    update = torch.zeros_like(env.get_attr("view")[0].theta)
    update[1] = 1e30
    env.env_method("use_update", update)
    _, rewards, dones, infos = env.step(np.zeros((2, 4), np.float32))
    assert dones.tolist() == [False, True]
    assert rewards[1] == -10
    assert infos[1]["diverged"] is True
    assert infos[1]["TimeLimit.truncated"] is False


@pytest.mark.parametrize("mode", ["NextStep", "Disabled"])
def test_other_autoreset_modes_are_refused(tiny, mode):
    with pytest.raises(ValueError, match="SameStep"):
        VecEnvAdapter(gym.make_vec(ID, num_envs=2, autoreset_mode=mode, **tiny))


def test_seeds(tiny):
    env = make_vec_env(2, seed=5, **tiny)
    first, second = env.reset(), env.reset()
    assert not np.array_equal(first, second)
    assert env.seed(5) == [5, 6]
    np.testing.assert_array_equal(env.reset(), first)


def test_attributes_concern_all_environments(tiny):
    env = make_vec_env(3, softmax_beta=2.0, **tiny)
    assert env.get_attr("beta") == [2.0] * 3
    assert env.get_attr("render_mode", indices=1) == [None]
    assert len({id(simulation) for simulation in env.get_attr("simulation")}) == 1
    assert not env.has_attr("nonsense")
    env.set_attr("mark", 1)
    assert env.get_attr("mark", [0, 2]) == [1, 1]
    with pytest.raises(ValueError, match="indices"):
        env.set_attr("mark", 2, indices=0)
    with pytest.raises(ValueError, match="indices"):
        env.env_method("close", indices=[0, 1])
    assert env.env_is_wrapped(VectorSoftmaxCredits) == [True] * 3
    assert env.env_is_wrapped(SoftmaxCredits, indices=0) == [False]


def test_monitor_and_normalize_count_episodes(tiny):
    env = VecNormalize(VecMonitor(make_vec_env(2, seed=0, **tiny)), norm_obs=False)
    env.reset()
    for _ in range(8):
        _, _, dones, infos = env.step(np.zeros((2, 4), np.float32))
    assert dones.all()
    assert [info["episode"]["l"] for info in infos] == [8, 8]


def _assert_same(left, right):
    if isinstance(left, dict):
        assert left.keys() == right.keys()
        for name in left:
            np.testing.assert_array_equal(left[name], right[name])
    else:
        np.testing.assert_array_equal(left, right)


def test_rewards_are_cut_at_a_floor():
    tiny = {"task": "synthetic", "num_workers": 4, "num_byzantine": 2, "rounds": 30, "attack": "gaussian"}
    plain, cut = make_vec_env(16, seed=0, **tiny), CutAtFloor(make_vec_env(16, seed=0, **tiny), -0.1)
    plain.reset(), cut.reset()
    ends = {True: 0, False: 0}
    for _ in range(30):
        seen, rewards, dones, _ = plain.step(np.ones((16, 4)))
        also_seen, floored, ended, infos = cut.step(np.ones((16, 4)))
        for info, low in zip(infos, rewards < -0.1, strict=True):
            assert not (low and info["TimeLimit.truncated"])
        np.testing.assert_array_equal(seen, also_seen)
        np.testing.assert_array_equal(floored, np.maximum(rewards, np.float32(-0.1)))
        np.testing.assert_array_equal(ended, dones | (rewards < -0.1))
        for low in (rewards < -0.1)[~dones]:
            ends[bool(low)] += 1
    assert min(ends.values()) > 10


@pytest.mark.parametrize("floor", [0.1, float("nan"), -float("inf"), "low"])
def test_the_floor_is_checked(tiny, floor):
    with pytest.raises(ValueError, match="floor must be a finite number of at most 0"):
        CutAtFloor(make_vec_env(2, **tiny), floor)


def test_the_autoreset_mode_is_no_choice():
    with pytest.raises(TypeError, match="autoreset_mode is always 'SameStep'"):
        make_vec_env(2, autoreset_mode="NextStep")


def test_statistics_of_gymnasiums_wrapper_arrive(tiny):
    venv = gym.make_vec(ID, num_envs=2, autoreset_mode="SameStep", **{**tiny, "rounds": 3})
    adapter = VecEnvAdapter(RecordEpisodeStatistics(venv))
    adapter.reset()
    total = np.zeros(2)
    for _ in range(3):
        _, rewards, dones, infos = adapter.step(np.stack([adapter.action_space.sample()] * 2))
        total += rewards
    assert dones.all()
    for info, expected in zip(infos, total, strict=True):
        assert info["episode"]["l"] == 3
        assert info["episode"]["r"] == pytest.approx(expected, rel=1e-5)
