import gymnasium as gym
import pandas as pd
import pytest
import torch

from byzgym import agents, specs
from byzgym.experiments import compare, play
from byzgym.experiments.results import RUN_COLUMNS
from byzgym.simulation import Simulation


def of(runs, policy):
    kept = [name for name in RUN_COLUMNS if name != "seconds"]
    return runs.loc[runs["policy"] == policy, kept].reset_index(drop=True)


def played(*arguments):
    """The runs of a batch."""
    return pd.DataFrame(play.play_batch(*arguments).runs)


def test_the_same_seeds_give_the_same_numbers(results):
    again = played(results.comparison, "gaa", 7)
    pd.testing.assert_frame_equal(of(again, "gaa"), of(results.runs, "gaa"), check_dtype=False)


def test_the_seeds_begin_at_the_first_one(small):
    runs = played(small(seeds=3, rounds=2), "mean", 3)
    later = played(small(seeds=2, rounds=2, first_seed=1), "mean", 3)
    assert later["seed"].tolist() == [1, 2, 1, 2]
    pd.testing.assert_frame_equal(of(later, "mean"), of(runs[runs["seed"] > 0], "mean"))


def test_other_policies_change_nothing(results, small, tmp_path):
    fewer = compare(small(policies=("oracle", "krum")), tmp_path)
    for policy in ("oracle", "krum"):
        pd.testing.assert_frame_equal(of(fewer.runs, policy), of(results.runs, policy), check_dtype=False)


def test_policies_that_keep_one_name_in_different_shapes(small, tmp_path):
    policies = ("ensemble:members=krum+gaa", "ensemble:members=krum+mean+gaa")
    runs = compare(small(policies=policies), tmp_path).runs
    assert set(runs["policy"]) == set(policies)


def test_the_success_of_backdoors_is_reported(small, tmp_path):
    comparison = small(policies=("mean",), attacks=("backdoor:target=1", "zero"), rounds=3, seeds=2)
    results = compare(comparison, tmp_path)
    for table in (results.runs, results.curves):
        rates = table.groupby("attack")["attack_success_rate"]
        assert rates.count()["zero"] == 0
        assert rates.count()["backdoor:target=1"] == rates.size()["backdoor:target=1"]
        assert table["attack_success_rate"].dropna().between(0, 1).all()


def test_servers_decide_for_their_blocks(small, tmp_path):
    policies = ("median", "krum", "oracle", "gaa")
    one, many = (
        compare(small(policies=policies, num_servers=servers), tmp_path / str(servers)).runs
        for servers in (1, 3)
    )
    medians = [runs[runs["policy"] == "median"] for runs in (one, many)]
    assert medians[0]["qv_loss"].tolist() == pytest.approx(medians[1]["qv_loss"].tolist(), rel=1e-4)
    kept = [runs[runs["policy"] == "krum"]["qv_loss"].tolist() for runs in (one, many)]
    assert kept[0] != pytest.approx(kept[1], rel=1e-4)
    assert (many[many["policy"] == "oracle"]["byzantine_credit"] == 0).all()
    assert many[many["policy"] != "median"]["detection_auc"].notna().all()


def test_threads_are_put_back(small):
    seen = []

    class Counting:
        def aggregate(self, view):
            seen.append(torch.get_num_threads())
            return view.gradients.mean(1)

    agents.register("test_counting", Counting)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        play.play_batch(small(rounds=2), "test_counting", 3)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert set(seen) == {1}


@pytest.mark.parametrize(
    ("policy", "action"), [("krum", "credits"), ("gaa", "credits"), ("median", "update")]
)
def test_a_run_equals_the_environment(small, policy, action):
    comparison = small(attacks=("sign_flip", "gaussian:std=1.0"))
    runs = played(comparison, policy, 3)
    arguments = {"task": "synthetic", "rounds": 20, "num_byzantine": 3, "attack": "sign_flip"}
    env = gym.make("ByzantineAggregation-v0", action=action, **arguments)
    agent = agents.make(policy).bind(env)
    observation, info = env.reset(seed=1)
    for _ in range(20):
        observation, _, _, _, info = env.step(agent.predict(observation)[0])
    run = runs[(runs["attack"] == "sign_flip") & (runs["seed"] == 1)].iloc[0]
    assert run["accuracy"] == pytest.approx(info["accuracy"], abs=1e-6)
    assert run["qv_loss"] == pytest.approx(info["qv_loss"], rel=1e-4)


@pytest.mark.parametrize(
    ("policy", "f", "told"),
    [
        ("krum", 7, 3),
        ("krum", 3, None),
        ("krum:num_byzantine=3", 7, None),
        ("krum:num_byzantine=5", 7, 3),
        ("mean", 7, None),
        ("gaa", 7, None),
    ],
)
def test_what_rules_are_told_is_noted(small, policy, f, told):
    noted = play.begin(small(policies=policy, num_byzantine=f)).told
    assert [entry.told for entry in noted] == ([] if told is None else [told])


def test_a_cohort_has_its_note_under_the_true_f(small):
    # 6 of 10 workers take part, of whom at most 3 are Byzantine; krum accepts f = 1 of 6.
    (noted,) = play.begin(small(policies="krum", num_byzantine=3, cohort_size=6)).told
    assert (noted.num_byzantine, noted.told) == (3, 1)


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("gaa:start=krum", ["krum is told f = 3, the largest it accepts (needs n >= 2f + 3)"]),
        ("gaa:start='krum:num_byzantine=3'", []),
        (
            "ensemble:members=krum+krum+gaa+bulyan+mean",
            [
                "krum is told f = 3, the largest it accepts (needs n >= 2f + 3)",
                "bulyan is told f = 1, the largest it accepts (needs n >= 4f + 3)",
            ],
        ),
        (
            "ensemble:members=['uniform', 'gaa:start=faba']",
            ["faba is told f = 4, the largest it accepts (needs n >= 2f + 1)"],
        ),
    ],
)
def test_what_rules_inside_a_policy_are_told_is_noted(small, policy, expected):
    noted = play.begin(small(policies=policy, num_byzantine=7)).told
    assert [str(entry) for entry in noted] == expected
    assert all((entry.policy, entry.num_byzantine) == (specs.canonical(policy), 7) for entry in noted)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"policies": "krmu"}, "did you mean 'krum'.*known: .*gaa.*krum"),
        ({"attacks": "ipm:nothing=1"}, "its parameters: epsilon"),
        ({"policies": "fixed:credits=[1,2]"}, "10 entries"),
        ({"policies": "krum", "num_workers": 2}, "n >= 2f"),
        ({"policies": "test_careless"}, "credits"),
        ({"qv_size": 100_000}, "qv_size"),
        ({"roles": "fluctuating:high=20"}, "high"),
    ],
)
def test_what_cannot_run_fails_at_once(small, changes, message, tmp_path):
    class Careless:
        def credits(self, view):
            return torch.ones(1, 3)

    agents.register("test_careless", Careless)
    with pytest.raises((ValueError, TypeError, OSError, RuntimeError), match=message):
        compare(small(**changes), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_credits_are_logged_in_their_own_round(small):
    comparison = small(roles="randomized:period=1", policies="oracle")
    runs = played(comparison, "oracle", 4)
    assert (runs["byzantine_credit"] == 0).all()
    assert (runs["detection_auc"] == 1).all()


def test_traces_hold_the_credits_of_all_rounds(small):
    comparison = small(roles="randomized:period=1", policies="oracle")
    traces = play.play_batch(comparison, "oracle", 4).traces
    assert len(traces) == 4
    for trace in traces:
        assert trace["credits"].shape == trace["byzantine"].shape == (20, 10)
        assert len(set(trace["byzantine"].sum(1).tolist())) > 1
        honest = 1 / (~trace["byzantine"]).sum(1, keepdims=True)
        assert trace["credits"] == pytest.approx(honest * ~trace["byzantine"], abs=1e-3)
    assert play.play_batch(comparison, "median", 4).traces == [{}] * 4


def test_traces_say_who_took_part(small):
    trace = play.play_batch(small(cohort_size=4, rounds=9), "mean", 3).traces[0]
    assert trace["workers"].shape == (9, 4)
    assert len(set(trace["workers"].ravel().tolist())) > 4


@pytest.mark.parametrize(("times", "diverged"), [(999, False), (1001, True)])
def test_an_exploded_loss_has_diverged(small, monkeypatch, times, diverged):
    monkeypatch.setattr(Simulation, "qv_loss", lambda simulation: times * simulation.initial_loss)
    assert (played(small(rounds=2), "mean", 3)["diverged"] == diverged).all()


@pytest.mark.parametrize(("every", "rounds"), [(4, [0, 4, 6]), (9, [0, 6])])
def test_points_of_the_curves(small, every, rounds):
    curves = pd.DataFrame(play.play_batch(small(rounds=6, evaluate_every=every), "mean", 3).curves)
    for _, points in curves.groupby(["policy", "attack", "num_byzantine", "seed"]):
        assert points["round"].tolist() == rounds


@pytest.fixture
def env():
    setting = {"task": "synthetic", "rounds": 4, "num_byzantine": 7, "attack": ["ipm", "alie"]}
    return gym.make("ByzantineAggregation-v0", **setting)


def test_an_episode_starts_once(env):
    agent, starts = agents.make("gaa").bind(env), []

    def predict(observation, *, episode_start, **others):
        starts.append(episode_start.tolist())
        return agent.predict(observation, episode_start=episode_start, **others)

    assert play.play_episodes(env, predict, 2, 0)["rounds"].tolist() == [4, 4]
    assert starts == [[True], [False], [False], [False]] * 2


def test_every_episode_has_its_own_seed(env):
    predict = agents.make("gaa").bind(env).predict
    table = play.play_episodes(env, predict, 3, 5)
    assert table["seed"].tolist() == [5, 6, 7]
    assert set(table["attack"]) <= {"ipm", "alie"}
    alone = play.play_episodes(env, predict, 1, 6)
    pd.testing.assert_frame_equal(table.iloc[[1]].reset_index(drop=True), alone)
    assert table["return"].nunique() == 3
