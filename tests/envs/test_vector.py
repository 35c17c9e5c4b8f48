"""The native vector environment against single environments, in all autoreset modes."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import data_equivalence
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers.vector import RecordEpisodeStatistics
from packaging.version import Version

import byzgym
from byzgym import attacks

TINY = {"task": "synthetic", "num_workers": 5, "num_byzantine": 2, "rounds": 6, "pool_size": 8}
ATTACKS = ["gaussian", "sign_flip", "ipm", "alie", "random"]


def make(num_envs=4, **arguments):
    return gym.make_vec("ByzantineAggregation-v0", num_envs=num_envs, **{**TINY, **arguments})


def make_sync(mode, num_envs=4, **arguments):
    def one():
        return gym.make("ByzantineAggregation-v0", **{**TINY, **arguments}).unwrapped

    return SyncVectorEnv([one] * num_envs, autoreset_mode=mode)


def assert_same(first, second, path="result"):
    """Equal up to rounding, with the same keys, shapes and types of numbers."""
    if isinstance(first, dict):
        assert first.keys() == second.keys(), path
        for name in first:
            assert_same(first[name], second[name], f"{path}[{name}]")
    elif isinstance(first, np.ndarray) and first.dtype == object:
        for one, other in zip(first, second, strict=True):
            assert type(one) is type(other), path
            if isinstance(one, str | None):
                assert one == other, path
            else:
                assert_same(one, other, path)
    elif isinstance(first, tuple | list):
        for number, (one, other) in enumerate(zip(first, second, strict=True)):
            assert_same(one, other, f"{path}[{number}]")
    else:
        first, second = np.asarray(first), np.asarray(second)
        assert first.shape == second.shape, path
        np.testing.assert_allclose(first, second, rtol=2e-4, atol=2e-4, err_msg=path)


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
@pytest.mark.parametrize(
    "arguments",
    [
        {"attack": ATTACKS, "learning_rate": 0.01},
        {"attack": ATTACKS},  # some environments diverge, so that episodes end at different times
        {"attack": ["alie"], "observation": "all", "action": "null_slot", "evaluate_every": 2},
        {"attack": ["backdoor", "leaked_qv:leak=distribution"], "evaluate_every": 2},
        {"attack": "ipm", "secure_group_size": 5, "num_byzantine": (0, 4)},
        {"attack": ["alie"], "reward_size": 9, "reward_form": "log", "pooling": "blocks"},
        {"attack": ATTACKS, "qv_period": 4},
        {"attack": ["alie"], "reward_size": 9, "qv_period": 2},
    ],
)
def test_environment_i_equals_the_single_one(mode, arguments):
    venv, sync = make(autoreset_mode=mode, **arguments), make_sync(mode, **arguments)
    assert venv.single_observation_space == sync.single_observation_space
    assert venv.single_action_space == sync.single_action_space
    assert_same(venv.reset(seed=7), sync.reset(seed=7))
    generator = np.random.default_rng(0)
    for step in range(20):
        actions = generator.random(venv.action_space.shape, dtype=np.float32)
        first, second = venv.step(actions), sync.step(actions)
        assert_same(first, second, f"step {step}")
        assert [part.dtype for part in first[1:4]] == [part.dtype for part in second[1:4]]


def test_parity_over_a_full_default_episode():
    venv = gym.make_vec("ByzantineAggregation-v0", num_envs=3, rounds=40)
    venv.reset(seed=3)
    singles = [gym.make("ByzantineAggregation-v0", rounds=40) for _ in range(3)]
    honest = [~env.reset(seed=3 + i)[1]["byzantine"] for i, env in enumerate(singles)]
    for _ in range(40):
        actions = np.array(honest, np.float32)
        results = venv.step(actions)
        for i, env in enumerate(singles):
            single = env.step(actions[i])
            np.testing.assert_allclose(results[0][i], single[0], rtol=1e-3, atol=1e-3)
            assert results[1][i] == pytest.approx(single[1], abs=1e-4)
    for i, env in enumerate(singles):
        final = env.unwrapped.simulation.evaluate()["accuracy"][0]
        assert results[4]["accuracy"][i] == pytest.approx(float(final), abs=0.01)


def test_seeds_one_by_one_and_resets_without():
    venv = make()
    first, _ = venv.reset(seed=[4, 5, 6, 7])
    second, _ = venv.reset()
    again, _ = venv.reset(seed=4)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, second)
    assert np.array_equal(second, venv.reset()[0])
    with pytest.raises(ValueError, match="seed must be an integer or 4 of them"):
        venv.reset(seed=[1, 2])


@pytest.mark.parametrize("bad", [[7, -1, 2, 3], [7, 8, 1.5, 2], 1.5, "7", [1, 2]])
def test_a_bad_seed_changes_no_random_state(bad):
    venv, untouched = make(attack="none"), make(attack="none")
    for one in (venv, untouched):
        one.reset(seed=0)
    with pytest.raises((ValueError, gym.error.Error)):
        venv.reset(seed=bad)
    actions = np.full((4, 5), 0.2, np.float32)
    assert data_equivalence(venv.step(actions), untouched.step(actions), exact=True)
    assert data_equivalence(venv.reset(), untouched.reset(), exact=True)


@pytest.mark.parametrize("bad", [1.5, "7", {"seed": 7}])
def test_a_seed_of_another_type_is_named(bad):
    with pytest.raises(ValueError, match="seed must be an integer or 4 of them"):
        make().reset(seed=bad)


def test_a_step_before_the_first_reset_is_refused():
    venv, actions = make(autoreset_mode="Disabled"), np.full((4, 5), 0.2, np.float32)
    with pytest.raises(ResetNeeded):
        venv.step(actions)
    venv.reset(options={"reset_mask": np.array([True, True, True, False])})
    with pytest.raises(ResetNeeded):
        venv.step(actions)
    venv.reset(options={"reset_mask": np.array([False, False, False, True])})
    venv.step(actions)


def test_next_step_ignores_the_action_of_a_reset():
    venv = make(rounds=2, attack="none")
    venv.reset(seed=0)
    good = np.full((4, 5), 0.2, np.float32)
    venv.step(good)
    assert venv.step(good)[3].all()
    _, rewards, _, truncated, info = venv.step(np.full((4, 5), np.nan, np.float32))
    assert (rewards == 0).all()
    assert not truncated.any()
    assert "accuracy" not in info


def test_disabled_autoreset_wants_a_mask():
    venv = make(rounds=2, autoreset_mode="Disabled", attack="none")
    venv.reset(seed=0)
    actions = np.full((4, 5), 0.2, np.float32)
    venv.step(actions)
    venv.step(actions)
    with pytest.raises(RuntimeError, match=r"reset the finished environments \[0, 1, 2, 3\]"):
        venv.step(actions)
    venv.reset(options={"reset_mask": np.array([True, True, False, False])})
    with pytest.raises(RuntimeError, match=r"\[2, 3\]"):
        venv.step(actions)
    venv.reset(options={"reset_mask": np.array([False, False, True, True])})
    venv.step(actions)
    with pytest.raises(ValueError, match="reset_mask"):
        venv.reset(options={"reset_mask": np.array([True])})


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_statistics_wrapper_counts_episodes(mode):
    if mode == AutoresetMode.SAME_STEP and Version(gym.__version__) < Version("1.4"):
        pytest.skip("Gymnasium's wrapper miscounts in this mode before 1.4 (Gymnasium's pull request 1624)")
    venv = RecordEpisodeStatistics(make(autoreset_mode=mode, attack="none"))
    venv.reset(seed=0)
    lengths = []
    for _ in range(14):
        info = venv.step(np.full((4, 5), 0.2, np.float32))[4]
        if "episode" in info:
            lengths += info["episode"]["l"][info["_episode"]].tolist()
    assert lengths == [6] * 8


def test_time_limit_of_make_vec():
    venv = make(max_episode_steps=3, attack="none")
    venv.reset(seed=0)
    flags = [venv.step(np.full((4, 5), 0.2, np.float32))[3].all() for _ in range(3)]
    assert flags == [False, False, True]


def test_a_longer_time_limit_prolongs_nothing():
    venv = make(max_episode_steps=50, rounds=3, attack="none")
    venv.reset(seed=0)
    flags = [venv.step(np.full((4, 5), 0.2, np.float32))[3].all() for _ in range(3)]
    assert flags == [False, False, True]


def test_rejected_rows_outlive_resets_elsewhere():
    arguments = {"attack": {"name": "omniscient", "factor": 3e38}}
    venv = make(num_envs=2, autoreset_mode="Disabled", **arguments)
    single = gym.make("ByzantineAggregation-v0", **{**TINY, **arguments}).unwrapped
    venv.reset(seed=0)
    single.reset(seed=1)
    venv.reset(seed=[7, None], options={"reset_mask": np.array([True, False])})
    actions = np.ones((2, 5), np.float32)
    observations, rewards, *_, infos = venv.step(actions)
    observation, reward, *_, info = single.step(actions[1])
    assert info["rejected"].sum() == 2
    assert np.array_equal(infos["rejected"][1], info["rejected"])
    np.testing.assert_allclose(infos["credits"][1], info["credits"], rtol=1e-6)
    assert rewards[1] == pytest.approx(reward, abs=1e-4)
    np.testing.assert_allclose(observations[1], observation, rtol=1e-3, atol=1e-4)


def test_returned_arrays_are_the_callers_own():
    venv = make(attack="none")
    observation, _ = venv.reset(seed=0)
    kept = observation.copy()
    following = venv.step(np.full((4, 5), 0.2, np.float32))[0]
    assert np.array_equal(observation, kept)
    following[:] = 0
    venv.step(np.full((4, 5), 0.2, np.float32))
    assert np.array_equal(observation, kept)


def test_divergence_leaves_the_others_alone():
    # Large entries of one sign would only silence the hidden units.
    attacks.register(
        "test_bomb", lambda: lambda g, b, c: 1e38 * (-1.0) ** torch.arange(g.shape[2]).expand_as(g)
    )
    venv, calm = make(attack=["test_bomb", "none"], num_envs=6), make(attack="none", num_envs=6)
    venv.reset(seed=0)
    calm.reset(seed=0)
    names = venv.unwrapped.simulation.attack_names
    assert len(set(names)) == 2
    actions = np.full((6, 5), 0.2, np.float32)
    _, rewards, terminated, _, info = venv.step(actions)
    assert terminated.tolist() == [name == "test_bomb" for name in names] == info["diverged"].tolist()
    assert (rewards[terminated] == -10).all()
    for _ in range(3):
        observation, rewards, *_ = venv.step(actions)
        assert np.isfinite(observation).all()
        assert np.isfinite(rewards).all()


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="autoreset_mode must be one of"):
        make(autoreset_mode="sometimes")
    with pytest.raises(ValueError, match="num_envs must be an integer of at least 1"):
        byzgym.envs.ByzantineAggregationVectorEnv(num_envs=0)
    with pytest.raises(ValueError, match="render_mode must be"):
        byzgym.envs.ByzantineAggregationVectorEnv(num_envs=1, render_mode="ansi")
    venv = make()
    venv.reset(seed=0)
    with pytest.raises(ValueError, match=r"action must have shape \(5,\) per environment, got \(4,\)"):
        venv.step(np.zeros((4, 4), np.float32))


def test_info_has_the_same_types_everywhere():
    venv = make(2)
    infos = venv.reset(seed=0)[1], venv.step(venv.action_space.sample())[4]
    assert infos[0].keys() == infos[1].keys()
    assert [infos[0][name].dtype for name in infos[0]] == [infos[1][name].dtype for name in infos[0]]


def test_seeds_in_use_are_told():
    venv = make(3)
    venv.reset(seed=np.arange(4, 7))
    assert venv.np_random_seed == (4, 5, 6)
    venv.reset(seed=np.array(9))
    assert venv.np_random_seed == (9, 10, 11)
    venv.reset(seed=[1, None, np.int64(2)])
    assert venv.np_random_seed == (1, 10, 2)
    single = gym.make("ByzantineAggregation-v0", **TINY)
    single.reset(seed=2)
    assert venv.np_random[2].integers(1000) == single.unwrapped.np_random.integers(1000)


def test_rejected_rows_change_nothing_elsewhere():
    attack = {"name": "omniscient", "factor": 3e38}
    venv = make(num_envs=2, per_environment=[{"attack": attack}, {"attack": "sign_flip"}])
    venv.reset(seed=0)
    action = np.float32([0.1, 0.1, 0.1, 0.1, 0.6])  # whose sum in single precision is not 1
    *_, infos = venv.step(np.stack([action, action]))
    assert infos["rejected"].sum(1).tolist() == [2, 0]
    assert np.array_equal(infos["credits"][1], action)


@pytest.mark.parametrize("mode", ["NextStep", "SameStep"])
def test_frames_for_video_wrappers(mode):
    venv = make(num_envs=3, autoreset_mode=mode, render_mode="rgb_array", rounds=2)
    venv.reset(seed=0)
    frames = [venv.render()]
    for _ in range(4):
        venv.step(venv.action_space.sample())
        frames.append(venv.render())
    assert all(isinstance(drawn, tuple) and len(drawn) == 3 for drawn in frames)
    assert {frame.shape for drawn in frames for frame in drawn} == {(240, 320, 3)}
    assert not np.array_equal(frames[0][0], frames[1][0])


def test_what_gymnasium_calls_by_name():
    venv = make(num_envs=3).unwrapped
    assert venv.autoreset_mode is AutoresetMode.NEXT_STEP
    assert venv.spec.max_episode_steps == 6
    assert venv.get_attr("autoreset_mode") == (AutoresetMode.NEXT_STEP,) * 3
    assert venv.call("render") == (None, None, None)
    assert gym.make_vec(venv.spec, num_envs=2).spec.max_episode_steps == 6


@pytest.mark.parametrize("mode", ["SameStep", "NextStep"])
def test_what_follows_a_snapshot_can_be_repeated(mode):
    def play(env):
        actions = np.random.default_rng(0).random((12, 4, 5)).astype(np.float32)
        return [env.step(action) for action in actions]  # episodes of 6 rounds: resets are drawn anew

    env, other = (make(attack=ATTACKS, learning_rate=0.01, autoreset_mode=mode) for _ in range(2))
    env.reset(seed=0)
    for _ in range(4):
        env.step(np.full((4, 5), 0.2, np.float32))
    snapshot, before = env.snapshot(), env._core.observe()
    expected = play(env)
    other.reset(seed=7)
    for restored in (env, other):
        assert data_equivalence(restored.restore(snapshot), before, exact=True)
        assert data_equivalence(play(restored), expected, exact=True)
    for broken in (None, {}, {**snapshot, "simulation": {}}):
        with pytest.raises(ValueError, match="snapshot"):
            env.restore(broken)
