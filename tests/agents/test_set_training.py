"""agents/set.py: a training that is killed goes on and ends with the same weights."""

import importlib.util
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from byzgym import agents
from byzgym.agents.set.features import Features
from byzgym.agents.set.network import Result

SCRIPT = Path(__file__).parents[2] / "agents" / "set.py"
TINY = ["--generations", "3", "--groups", "2", "--num-envs", "2", "--processes", "1"]


def start(folder):
    command = [sys.executable, str(SCRIPT), "--out", str(folder), *TINY]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--processes", "0"], "processes must be"),
        (["--groups", "3", "--processes", "2"], "groups must be a multiple of processes=2, got 3"),
        (["--averaging", "9"], "averaging must be"),
        (["--generations", "0"], "generations must be"),
    ],
)
def test_what_cannot_be_trained_is_refused(tmp_path, arguments, text):
    command = [sys.executable, str(SCRIPT), "--out", str(tmp_path / "new"), *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode != 0  # older tyro lets the error through, newer prints it in a box
    assert text in " ".join(ended.stderr.replace("│", " ").split())
    assert not (tmp_path / "new").exists()


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("train_set", SCRIPT)
    script = importlib.util.module_from_spec(spec)
    sys.modules["train_set"] = script  # dataclasses look their module up
    spec.loader.exec_module(script)
    return script


@pytest.mark.parametrize(
    ("kind", "sizes"), [("relative", (12, 64)), ("clusters", (2, 10)), ("words", (128, 724))]
)
def test_a_small_task_follows_from_the_generator(script, kind, sizes):
    for seed in range(4):
        task, model = script.small_task(kind, np.random.default_rng(seed))
        again, same = script.small_task(kind, np.random.default_rng(seed))
        assert torch.equal(task.train[0], again.train[0])
        assert model == same
        assert sizes[0] <= task.input_shape[0] <= sizes[1]


def test_all_processes_play_tasks_of_the_same_kinds(script):
    config = script.Config(out=Path(), groups=8, processes=2)
    episodes = [script.drawn_episodes(config, np.random.default_rng([0, number])) for number in range(20)]
    assert all(len(drawn) == 4 for drawn in episodes)
    assert {kind for drawn in episodes for kind, _ in drawn} == set(script.KINDS)
    assert all(16 <= rounds <= 253 for drawn in episodes for _, rounds in drawn)


@pytest.mark.parametrize("kind", ["relative", "clusters", "words"])
def test_a_drawn_task_has_all_its_classes(script, kind):
    for seed in range(10):
        x, y, models = getattr(script, kind)(np.random.default_rng(seed))
        assert np.isfinite(x).all()
        assert x.shape == (len(y), x.shape[1])
        assert np.unique(y).tolist() == list(range(y.max() + 1))
        assert y.max() >= 1
        assert models


def test_bags_of_words_are_sparse_and_have_one_norm(script):
    x, _, _ = script.words(np.random.default_rng(0))
    used = (x != 0).sum(1)
    assert used.min() == used.max() < x.shape[1] / 2
    norms = np.linalg.norm(x, axis=1)
    np.testing.assert_allclose(norms, norms[0])


def judged(script, weights, cosines, honest, lengths=(1.0, 1.0, 1.0), factors=(1.0, 1.0, 1.0)):
    """What a decision on three orthogonal submissions costs; the gradient of the loss has norm 1."""
    result = Result(torch.tensor([weights]), torch.tensor([factors]), torch.zeros(1, 3), torch.zeros(1, 3, 4))
    features = Features(
        workers=torch.zeros(1, 3, 1),
        run=torch.zeros(1, 1),
        pairs=torch.eye(3)[None, None],
        evidence=torch.zeros(1, 3, 1),
        log_norms=torch.tensor([lengths]).log(),
        log_server_norm=torch.zeros(1),
        rejected=torch.zeros(1, 3, dtype=torch.bool),
    )
    step = script.Step(
        fresh=torch.ones(1, dtype=torch.bool),
        features=features,
        honest=torch.tensor([honest]),
        cosines=torch.tensor([cosines]),
        steepness=torch.ones(1),
        relative_rate=torch.full((1,), 0.1),
    )
    return {name: float(value) for name, value in script.judged(result, step).items()}


def test_the_honest_mean_costs_nothing(script):
    terms = judged(script, [0.5, 0.5, 0.0], [0.6, 0.2, -0.4], [True, True, False])
    assert terms == pytest.approx({"distance": 0, "lag": 0, "harm": 0, "honesty": np.log(2)}, abs=1e-6)


def test_credits_for_others_cost_what_was_computed_by_hand(script):
    terms = judged(script, [0.0, 0.5, 0.5], [0.6, 0.2, -0.4], [True, True, False])
    # away from (.5, .5, 0) by (.5, 0, .5): .5 over .5; progress -.1 of .4; harm 0.5 times 0.1 * 0.4
    expected = {"distance": np.log(2), "lag": 1.25, "harm": 0.02, "honesty": np.log(2)}
    assert terms == pytest.approx(expected, abs=1e-6)


def test_what_is_shortened_counts_as_short(script):
    terms = judged(
        script, [0.5, 0.0, 0.5], [0.6, 0.2, -0.4], [True, True, False], (1.0, 1.0, 10.0), (1.0, 1.0, 0.1)
    )
    # away from (.5, .5, 0) by (0, .5, .5); progress .3 - .2 of .4; harm as above
    expected = {"distance": np.log(2), "lag": 0.75, "harm": 0.02, "honesty": np.log(2)}
    assert terms == pytest.approx(expected, abs=1e-6)


def test_nobody_lags_where_the_honest_mean_says_nothing(script):
    assert judged(script, [0.0, 0.0, 1.0], [0.01, 0.01, -0.4], [True, True, False])["lag"] == 0
    assert judged(script, [0.0, 0.0, 1.0], [-0.3, 0.1, -0.4], [True, True, False])["lag"] == 0


def test_what_is_learned_from_is_what_was_played(script):
    config = script.Config(out=Path(), num_envs=4, sketch=64)
    group = script.Group(config, [], 0.0, ("clusters", 20), np.random.default_rng(3))
    group.forget = np.array([0, 3, 11, 0])  # memories that begin anew in the middle of a window
    network = agents.SetAggregator(pretrained=False).network.requires_grad_(True)
    with torch.no_grad():
        for parameter in network.parameters():  # so that the memory matters
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    hidden = torch.zeros_like(group.state["hidden"])
    for window in group.windows(network, 8):
        torch.testing.assert_close(window.hidden, hidden)
        for step in window.steps:
            begun = step.features.run[:, 2] == 1  # one over the root of a memory's age
            assert torch.equal(step.fresh, begun)
            hidden = network(step.features, hidden.masked_fill(step.fresh[:, None, None], 0)).hidden.detach()
        assert all(value.requires_grad for name, value in window.losses(network).items() if name != "harm")


def test_the_bank_keeps_the_attack_that_spoiled_a_model(script):
    config = script.Config(out=Path(), num_envs=8)
    for number in range(5):  # until an environment has the mixture
        group = script.Group(config, [], 0.0, ("relative", 20), np.random.default_rng(number))
        before = group.attackers()
        if before:
            break
    group.damage[:], group.age[:] = 6.0, 2.0
    env = next(e for e in range(8) if group._points([e]))
    spoiler = group._points([env])
    group._begin_anew([env])
    after = group.attackers()
    assert spoiler[0] in after
    assert spoiler[0][0] == 3
    assert group._points([env])[0][1] != spoiler[0][1]
    assert group._points([env])[0][0] == 0
    assert len(after) == len(before) + 1


def test_a_folder_with_other_settings_is_refused(tmp_path):
    path = tmp_path / "checkpoint.pt"
    settings = {"generations": 3, "groups": 2, "num_envs": 2, "window": 8, "learning_rate": 2e-3}
    settings |= {"passes": 4, "skewed": 0.6, "averaging": 0.001, "bank": 60, "processes": 1}
    torch.save({"config": settings | {"seed": 1, "rounds": 5}}, path)
    command = [sys.executable, str(SCRIPT), "--out", str(tmp_path), *TINY]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        f"{path} was trained with sketch=unknown, now 1024; seed=1, now 0; rounds=5, now unknown; "
        "give the same settings or another --out"
    ]


@pytest.mark.slow
def test_a_killed_training_goes_on_and_ends_with_the_same_weights(tmp_path):
    whole = start(tmp_path / "whole")
    killed = start(tmp_path / "killed")
    for line in killed.stdout:
        if line.startswith("1/3"):
            killed.send_signal(signal.SIGKILL)
            break
    killed.wait()
    assert whole.wait() == 0
    again = start(tmp_path / "killed")
    lines = again.stdout.read().splitlines()
    assert again.wait() == 0
    assert [line.split()[0] for line in lines if "/3" in line] == ["2/3", "3/3"]
    weights, others = (load_file(tmp_path / name / "set.safetensors") for name in ("whole", "killed"))
    assert all(torch.equal(weights[name], others[name]) for name in weights)
    start_weights = agents.SetAggregator(pretrained=False).network.state_dict()
    assert any(not torch.equal(weights[name], start_weights[name]) for name in weights)
