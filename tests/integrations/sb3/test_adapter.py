import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import data_equivalence
from gymnasium.wrappers.vector import RecordEpisodeStatistics
from stable_baselines3.common.env_checker import check_env
from stable_baselines3.common.vec_env import VecMonitor, VecNormalize

from byzgym.integrations.sb3 import VecEnvAdapter, make_vec_env
from byzgym.wrappers import SoftmaxCredits, VectorSoftmaxCredits

pytestmark = pytest.mark.global_rng

ID = "ByzantineAggregation-v0"


@pytest.mark.parametrize("arguments", [{}, {"observation": "all"}, {"action": "null_slot"}])
@pytest.mark.parametrize("softmax", [False, True])
def test_check_env(tiny, recwarn, arguments, softmax):
    env = gym.make(ID, **tiny, **arguments)
    check_env(SoftmaxCredits(env) if softmax else env)
    # Rows per worker are the point of the observation, and credits lie in [0, 1].
    allowed = ["unconventional shape"] + ([] if softmax else ["symmetric and normalized Box action space"])
    assert not [w for w in recwarn if not any(text in str(w.message) for text in allowed)]


@pytest.mark.filterwarnings("error")
def test_check_env_without_a_warning(tiny):
    check_env(SoftmaxCredits(gym.make(ID, **tiny, observation=["norms", "trust", "loss"])))


@pytest.mark.parametrize("arguments", [{}, {"observation": "all"}])
def test_parity_with_the_native_environment(tiny, arguments):
    native = gym.make_vec(ID, num_envs=3, autoreset_mode="SameStep", **tiny, **arguments)
    adapter = make_vec_env(3, seed=7, **tiny, **arguments)
    expected = native.reset(seed=7)[0]
    obtained = adapter.reset()
    rng = np.random.default_rng(0)
    for _ in range(12):
        assert data_equivalence(obtained, expected, exact=True)
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
            if dones[env]:
                assert data_equivalence(info["terminal_observation"], infos["final_obs"][env], exact=True)
    assert data_equivalence(obtained, expected, exact=True)


def test_divergence_is_no_time_limit(tiny):
    env = make_vec_env(2, seed=0, **{**tiny, "attack": "none", "learning_rate": 1e30})
    env.reset()
    _, rewards, dones, infos = env.step(np.ones((2, 4)))
    assert dones.all()
    assert (rewards == -10).all()
    assert [(info["diverged"], info["TimeLimit.truncated"]) for info in infos] == [(True, False)] * 2


@pytest.mark.parametrize("mode", ["NextStep", "Disabled"])
def test_other_autoreset_modes_are_refused(tiny, mode):
    with pytest.raises(ValueError, match="SameStep"):
        VecEnvAdapter(gym.make_vec(ID, num_envs=2, autoreset_mode=mode, **tiny))
    with pytest.raises(TypeError, match="autoreset_mode"):
        make_vec_env(2, autoreset_mode=mode)


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


def test_statistics_of_wrappers_arrive(tiny):
    native = gym.make_vec(ID, num_envs=2, autoreset_mode="SameStep", **tiny)
    monitored = VecMonitor(make_vec_env(2, **tiny))
    for env in (VecEnvAdapter(RecordEpisodeStatistics(native)), VecNormalize(monitored, norm_reward=False)):
        env.seed(0)
        env.reset()
        total = np.zeros(2)
        for _ in range(8):
            _, rewards, dones, infos = env.step(np.ones((2, 4)))
            total += rewards
        assert dones.all()
        for info, expected in zip(infos, total, strict=True):
            assert info["episode"]["l"] == 8
            assert info["episode"]["r"] == pytest.approx(expected, rel=1e-5)


def test_frames_are_passed_on(tiny):
    env = make_vec_env(3, seed=0, render_mode="rgb_array", **tiny)
    env.reset()
    height, width, colors = env.get_images()[0].shape
    assert env.render().shape == (2 * height, 2 * width, colors)


def test_last_rounds_without_credits(tiny):
    env = make_vec_env(2, seed=0, action="rule", rules=["median", "mean"], **tiny)
    env.reset()
    for _ in range(8):
        infos = env.step(np.array([0, 1]))[3]
    assert ["credits" in info for info in infos] == [False, True]
    assert [info["credits"].tolist() for info in env.reset_infos] == [[0.25] * 4] * 2


def test_each_environment_has_one_attack_for_good(tiny):
    names = ["sign_flip", {"name": "ipm", "epsilon": 2.0}]
    venv = make_vec_env(5, seed=0, one_attack_each=True, **{**tiny, "attack": names})
    for seed in (None, 7):
        venv.seed(seed)
        venv.reset()
        played = [info["attack"] for info in venv.reset_infos]
        assert played == [played[0], played[1]] * 2 + [played[0]]
        assert played[0] == "sign_flip"
        assert "ipm" in played[1]


@pytest.mark.parametrize("given", [{"num_envs": 1}, {"num_envs": 3, "per_environment": [{}] * 3}])
def test_attacks_need_an_environment_each(tiny, given):
    with pytest.raises(ValueError, match=r"at least as many environments as attacks \(2\) .* got num_envs="):
        make_vec_env(one_attack_each=True, **{**tiny, "attack": ["ipm", "alie"]}, **given)
