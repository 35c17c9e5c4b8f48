"""A model is a policy that does what the model does in the environment."""

import copy
import json
import pickle

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3 import DQN, PPO

from byzgym import agents
from byzgym.aggregation import NotLinearError
from byzgym.experiments.play import play_episodes, told_less
from byzgym.integrations.sb3 import (
    EquivariantDirichletPolicy,
    EquivariantPolicy,
    ModelPolicy,
    learners,
    make_vec_env,
)
from byzgym.integrations.sb3.config import NAME, TrainingConfig
from byzgym.simulation import Simulation
from byzgym.testing import check_policy

pytestmark = pytest.mark.global_rng
SETTING = {"task": "synthetic", "rounds": 5, "attack": ["ipm", "gaussian"], "num_workers": 6}
PARTS = ["norms", "similarity", "trust"]


def train(folder, algorithm="ppo", steps=16, **arguments):
    """A model with a config.json, trained a little, and its configuration."""
    if algorithm in ("recurrent_ppo", "tqc"):
        pytest.importorskip("sb3_contrib")
    environment = {**SETTING, "observation": PARTS, **arguments}
    settings = learners.settings(algorithm, 2, environment)
    small = {"n_steps": 4} if "n_steps" in settings else {"buffer_size": 100}
    settings |= {"batch_size": 8, **small}
    beta = learners.softmax_beta(environment)
    given = {"settings": settings, "softmax_beta": beta, "num_envs": 2, "steps": steps}
    config = TrainingConfig(algorithm=algorithm, environment=environment, **given)
    model = learners.make(config)
    model.learn(steps)
    model.save(folder / "model.zip")
    (folder / NAME).write_text(config.text())
    return folder / "model.zip", config


def stepped(model, config, **arguments):
    """Credits and observations of an episode in which the model acts in the environment itself."""
    venv = make_vec_env(3, seed=5, softmax_beta=config.softmax_beta, **{**config.environment, **arguments})
    seen, state, starts, found = venv.reset(), None, np.ones(3, bool), []
    for _ in range(SETTING["rounds"]):
        actions, state = model.predict(seen, state, starts, deterministic=True)
        seen, rewards, starts, infos = venv.step(actions)
        found.append((rewards, [info.get("credits") for info in infos]))
    return found


def decided(agent, config, **arguments):
    """The same of the policy, which is given the server's view."""
    action = "null_slot" if agent.linear else "update"
    environment = {
        **config.environment,
        **arguments,
        "observation": "progress",
        "action": action,
        "rules": None,
    }
    venv = make_vec_env(3, seed=5, **environment)
    agent.bind(venv)
    seen, found = venv.reset(), []
    for _ in range(SETTING["rounds"]):
        seen, rewards, _, infos = venv.step(agent.predict(seen)[0])
        found.append((rewards, [info.get("credits") for info in infos]))
    return found


CASES = {
    "credits": {},
    "null_slot": {"action": "null_slot"},
    "pooled": {"observation": "pooled", "pool_size": 4},
    "everything": {"observation": "all"},
    "groups": {"secure_group_size": 2},
    "rules": {"action": "rule", "rules": ["mean", "median", "krum"]},
}


@pytest.mark.parametrize("case", CASES)
def test_a_policy_does_what_the_model_does(tmp_path, case):
    path, config = train(tmp_path, **CASES[case])
    expected = stepped(learners.read(path), config)
    agent = agents.make_from(f"model:{path}")
    assert agent.linear == (case != "rules")
    for (rewards, credits), (rewards_there, credits_there) in zip(
        decided(agent, config), expected, strict=True
    ):
        np.testing.assert_array_equal(rewards, rewards_there)
        if agent.linear:
            np.testing.assert_array_equal(credits, credits_there)


@pytest.mark.parametrize("algorithm", ["recurrent_ppo", "sac", "td3", "tqc"])
def test_policies_of_all_algorithms(tmp_path, algorithm):
    path, config = train(tmp_path, algorithm)
    found, expected = decided(agents.make("model", path=path), config), stepped(learners.read(path), config)
    for (_, credits), (_, credits_there) in zip(found, expected, strict=True):
        np.testing.assert_array_equal(credits, credits_there)


def test_a_recurrent_state_begins_anew_with_an_episode(tmp_path):
    path, _ = train(tmp_path, "recurrent_ppo", steps=64)
    agent = agents.make("model", path=path)
    simulation = Simulation.make(2, seed=0, **SETTING)
    first = agent.decide(simulation.view).credits
    simulation.apply(agent.decide(simulation.view))
    later = agent.decide(simulation.view).credits
    agent.reset(torch.tensor([True, False]))
    partly = agent.decide(simulation.view).credits
    agent.reset()
    anew = agent.decide(simulation.view).credits
    assert torch.equal(partly[0], anew[0])
    assert not torch.equal(partly[1], anew[1])
    assert not torch.equal(anew, later)
    simulation.reset([0, 1])
    agent.reset()
    once = agent.decide(simulation.view).credits
    assert torch.equal(once, agent.decide(simulation.view).credits)  # round 0 is a beginning
    assert first.shape == once.shape


def test_a_model_with_another_number_of_workers(tmp_path):
    path, config = train(tmp_path)
    arguments = {"num_workers": 9}
    here = make_vec_env(3, softmax_beta=10.0, **{**config.environment, **arguments})
    moved = PPO(EquivariantPolicy, here, n_steps=2, batch_size=2, policy_kwargs={"log_std_init": -1.0})
    moved.policy.load_state_dict(learners.read(path).policy.state_dict())
    found = decided(agents.make("model", path=path), config, **arguments)
    for (_, credits), (_, credits_there) in zip(found, stepped(moved, config, **arguments), strict=True):
        np.testing.assert_array_equal(credits, credits_there)
    simulation = Simulation.make(1, seed=0, **{**SETTING, "num_workers": 20, "task": "digits"})
    assert agents.build(f"model:{path}", simulation).decide(simulation.view).credits.shape == (1, 20)


@pytest.mark.parametrize("algorithm", ["sac", "recurrent_ppo"])
def test_equivariant_policies_take_another_number_of_workers(tmp_path, algorithm):
    path, _ = train(tmp_path, algorithm)
    simulation = Simulation.make(2, seed=0, **{**SETTING, "num_workers": 9})
    agent = agents.build(f"model:{path}", simulation)
    for _ in range(2):
        credits = agent.decide(simulation.view).credits
        assert credits.shape == (2, 9)
        torch.testing.assert_close(credits.sum(1), torch.ones(2))


def test_a_network_of_one_size(tmp_path):
    path, _ = train(tmp_path, "td3")
    simulation = Simulation.make(1, seed=0, **{**SETTING, "num_workers": 7})
    with pytest.raises(
        ValueError, match=r"was trained with the observation_space .*\(6,\).* cannot change its shapes"
    ):
        agents.build(f"model:{path}", simulation)


def test_a_model_without_config(tmp_path):
    venv = make_vec_env(2, softmax_beta=3.0, **SETTING, observation=["trust", "norms"])
    path = tmp_path / "a,b=1.zip"
    PPO(EquivariantPolicy, venv, n_steps=4, batch_size=8).save(path)
    view = Simulation.make(2, seed=0, **SETTING).view
    default, ten, three = (
        ModelPolicy(path, softmax_beta=beta).credits(view) for beta in (None, learners.BETA, 3.0)
    )
    assert torch.equal(default, ten)
    assert not torch.equal(default, three)
    assert torch.equal(agents.make_from(f"model:{path}").credits(view), ten)
    unknown = f"there is no {tmp_path}/training.json"
    for beta, notes in (
        (None, [f"how it was trained is not known, softmax_beta is taken to be 10.0: {unknown}"]),
        (3.0, [f"how it was trained is not known: {unknown}"]),
    ):
        assert ModelPolicy(path, softmax_beta=beta).differences({"qv_size": 3}) == notes
    with pytest.raises(
        ValueError, match=r"was trained with the observation_space .*'norms'.* but here it is .*trust"
    ):
        ModelPolicy(path, environment={"observation": ["trust"]}).credits(view)
    with pytest.raises(TypeError, match="unknown argument 'observations'"):
        ModelPolicy(path, environment={"observations": ["trust"]})


def test_parts_of_the_same_shape_are_not_confused(tmp_path):
    """A network fits any observation of its shape; only the part for which it was trained means something."""
    path = tmp_path / "model.zip"
    venv = make_vec_env(2, softmax_beta=3.0, **SETTING, observation=["trust"])
    PPO(EquivariantPolicy, venv, n_steps=4, batch_size=8).save(path)
    view = Simulation.make(2, seed=0, **{**SETTING, "num_workers": 8}).view
    assert ModelPolicy(path).credits(view).shape == (2, 8)
    with pytest.raises(ValueError, match="but here it is"):
        ModelPolicy(path, environment={"observation": ["credits"]}).credits(view)


def test_credits_without_a_softmax(tmp_path):
    path = tmp_path / "model.zip"
    venv = make_vec_env(2, **SETTING, observation=["trust"])
    PPO(EquivariantDirichletPolicy, venv, n_steps=4, batch_size=8).save(path)
    view = Simulation.make(2, seed=0, **SETTING).view
    torch.testing.assert_close(ModelPolicy(path).credits(view).sum(1), torch.ones(2))
    with pytest.raises(ValueError, match="softmax_beta is for a model whose actions are logits"):
        ModelPolicy(path, softmax_beta=5.0)


def test_a_model_that_chooses_rules(tmp_path):
    arguments = {**SETTING, "action": "rule", "rules": ["mean", "median"]}
    path = tmp_path / "model.zip"
    DQN("MlpPolicy", make_vec_env(2, **arguments)).save(path)
    simulation = Simulation.make(2, seed=0, **SETTING)
    agent = ModelPolicy(path, environment={"action": "rule", "rules": ["mean", "median"]})
    update = agent.decide(simulation.view).update
    rules = [agents.build(name, simulation).aggregate(simulation.view) for name in ("mean", "median")]
    for env in range(2):
        assert any(torch.equal(update[env], rule[env]) for rule in rules)
    with pytest.raises(NotLinearError):
        agent.bind(gym.make("ByzantineAggregation-v0", **SETTING))
    with pytest.raises(ValueError, match="action_space"):
        ModelPolicy(path).decide(simulation.view)


def test_what_contradicts_config_is_refused(tmp_path):
    path, _ = train(tmp_path)
    assert ModelPolicy(path, "ppo", 10.0, {"observation": PARTS}).linear
    for arguments, message in [
        (("a2c",), "was trained with algorithm ppo, got a2c; leave algorithm out"),
        ((None, 5.0), r"was trained with softmax_beta 10\.0, got 5\.0"),
        (
            (None, None, {"observation": ["norms"]}),
            "trained with observation norms similarity trust, got norms",
        ),
    ]:
        with pytest.raises(ValueError, match=message):
            ModelPolicy(path, *arguments)


def test_files_of_other_programs_say_nothing(tmp_path):
    path, config = train(tmp_path)
    expected = decided(ModelPolicy(path), config)
    for name in (NAME, "config.json"):
        (tmp_path / name).write_text('{"algorithm": "a2c", "environment": {"observation": "all"}}')
    agent = ModelPolicy(path)
    (note,) = agent.differences(config.environment)
    assert note.endswith(f"softmax_beta is taken to be 10.0: {tmp_path}/training.json is of another program")
    for (_, credits), (_, credits_before) in zip(decided(agent, config), expected, strict=True):
        np.testing.assert_array_equal(credits, credits_before)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"algorithm": "ppq"}, "algorithm must be one of .*ppo.*, got 'ppq'"),
        ({"softmax_beta": None}, "softmax_beta must be a number for actions that are logits, got None"),
        ({"observation": "everything"}, "observation must be one of 'pooled'.*, got 'everything'"),
        ({"action": "crdits"}, "action must be one of 'credits'.*, got 'crdits'"),
        ({"rules": ["mean"]}, "rules is for action='rule', got action='credits'"),
    ],
)
def test_a_damaged_training_json(tmp_path, changes, message):
    path, config = train(tmp_path)
    held = json.loads(config.text())
    for name, value in changes.items():
        (held if name in held else held["environment"])[name] = value
    (tmp_path / NAME).write_text(json.dumps(held))
    with pytest.raises(ValueError, match=rf"training\.json: .*{message}"):
        agents.build(f"model:{path}", Simulation.make(1, seed=0, **SETTING))


def test_what_differs_is_said(tmp_path):
    path, config = train(tmp_path, qv_size=100)
    agent = ModelPolicy(path)
    assert agent.differences(config.environment) == []
    others = {"qv_size": 10, "task": "digits", "attack": "ipm", "num_byzantine": 1, "observation": "pooled"}
    assert agent.differences({**config.environment, **others}) == [
        "trained with task synthetic, evaluated with digits",
        "trained with qv_size 100, evaluated with 10",
    ]
    assert agents.make("gaa").differences(others) == []


def test_what_differs_inside_another_policy_is_said(tmp_path):
    path, config = train(tmp_path, qv_size=100)
    for spec in (f"gaa:start='model:{path}'", f"ensemble:members=krum+model:{path}"):
        assert agents.make_from(spec).differences({**config.environment, "qv_size": 10}) == [
            f"model:{path}: trained with qv_size 100, evaluated with 10"
        ]


def test_what_the_rules_of_a_model_are_told_is_noted(tmp_path):
    path, _ = train(tmp_path, action="rule", rules=["mean", "krum", "median:num_byzantine=1"])
    simulation = Simulation.make(1, seed=0, **SETTING, num_byzantine=4)
    agent = agents.build(f"model:{path}", simulation)
    assert [(told.rule, told.told) for told in told_less("mine", agent, simulation)] == [("krum", 1)]


def test_checkpoints_belong_to_the_training_above(tmp_path):
    path, _ = train(tmp_path, observation=["trust"])
    (tmp_path / "checkpoints").mkdir()
    moved = path.rename(tmp_path / "checkpoints" / "16.zip")
    assert ModelPolicy(moved).differences({"rounds": 6}) == ["trained with rounds 5, evaluated with 6"]


def test_it_is_a_policy_as_others_are(tmp_path):
    path, config = train(tmp_path)
    check_policy(f"model:{path}")
    simulation = Simulation.make(2, seed=0, **SETTING)
    agent = agents.build(f"model:{path}", simulation)
    expected = agent.credits(simulation.view)
    for twin in (pickle.loads(pickle.dumps(agent)), copy.deepcopy(agent)):
        assert torch.equal(twin.credits(simulation.view), expected)
    env = gym.make("ByzantineAggregation-v0", **{**config.environment, "attack": "none"})
    table = play_episodes(env, agent.bind(env).predict, 2, 0)
    assert list(table["rounds"]) == [5, 5]


def test_a_missing_model():
    with pytest.raises(FileNotFoundError, match=r"there is no model nowhere\.zip"):
        agents.make_from("model:nowhere.zip")
    with pytest.raises(ValueError, match="path must be the path of a model, got 3"):
        agents.make_from("model:3")
    with pytest.raises(TypeError, match="its parameters: path"):
        agents.make("model")
