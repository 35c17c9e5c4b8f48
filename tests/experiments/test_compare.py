import dataclasses
import json

import gymnasium as gym
import numpy as np
import pandas as pd
import pytest
import torch
from rich.console import Console

import byzgym
from byzgym import agents, aggregation, attacks
from byzgym.experiments import report, tables
from byzgym.experiments.compare import begin, check, compare, play_batch
from byzgym.experiments.comparison import Comparison
from byzgym.experiments.figures import byzantine_credits
from byzgym.experiments.policies import told
from byzgym.experiments.records import CURVE_COLUMNS, RESULT_COLUMNS, Records

SMALL = {"task": "synthetic", "rounds": 20, "seeds": 2, "attacks": ("sign_flip", "ipm:epsilon=2.0")}


def small(**changes):
    return Comparison(**{**SMALL, "policies": ("mean", "krum", "median", "gaa", "oracle"), **changes})


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    records = compare(small(), folder)
    report.write(records, folder)
    return folder


def numbers(results):
    kept = [name for name in RESULT_COLUMNS if name != "seconds"]
    return results[kept].reset_index(drop=True)


def test_the_columns_of_the_files(played):
    header = (
        "task,model,policy,attack,roles,partition,num_workers,num_byzantine,seed,rounds,accuracy,qv_loss,"
        "byzantine_credit,detection_auc,diverged,seconds,version"
    )
    lines = (played / "results.csv").read_text().splitlines()
    assert lines[0] == header == ",".join(RESULT_COLUMNS)
    assert len(lines) == 1 + 5 * 2 * 2
    curves = pd.read_csv(played / "curves.csv")
    assert tuple(curves.columns) == CURVE_COLUMNS
    assert curves["round"].unique().tolist() == list(range(21))


def test_config_holds_arguments_and_versions(played):
    config = json.loads((played / "config.json").read_text())
    assert config["arguments"]["policies"] == ["mean", "krum", "median", "gaa", "oracle"]
    assert set(config["versions"]) == {"byzgym", "torch", "numpy", "gymnasium", "python"}
    assert config["versions"]["byzgym"] == byzgym.__version__
    assert Comparison.from_json(config["arguments"]) == small()


def test_blank_where_a_policy_has_no_credits(played):
    results = Records.read(played).results.set_index("policy")
    assert results.loc["median", ["byzantine_credit", "detection_auc"]].isna().all(axis=None)
    assert (results.loc["oracle", "byzantine_credit"] == 0).all()
    assert (results.loc["oracle", "detection_auc"] == 1).all()


def test_same_seeds_give_the_same_numbers(played):
    again = play_batch(small(), "gaa", 7)
    before = Records.read(played).results.query("policy == 'gaa'")
    pd.testing.assert_frame_equal(numbers(pd.DataFrame(again.results)), numbers(before), check_dtype=False)


def test_other_policies_and_their_order_change_nothing(played, tmp_path):
    fewer = compare(small(policies=("oracle", "krum")), tmp_path).results
    before = Records.read(played).results
    for policy in ("oracle", "krum"):
        pd.testing.assert_frame_equal(
            numbers(fewer[fewer["policy"] == policy]),
            numbers(before[before["policy"] == policy]),
            check_dtype=False,
        )


def test_global_random_state_is_left_alone():
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    threads = torch.get_num_threads()
    play_batch(small(rounds=2), "gaa", 7)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()  # noqa: NPY002
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize("policy", ["krum", "gaa", "median"])
def test_a_run_equals_the_gymnasium_environment(policy):
    comparison = small(attacks=("sign_flip", "gaussian:std=1.0"))
    runs = pd.DataFrame(play_batch(comparison, policy, 3).results)
    env = gym.make(
        "ByzantineAggregation-v0", task="synthetic", rounds=20, num_byzantine=3, attack="sign_flip"
    )
    agent = agents.make(policy).bind(env)
    observation, info = env.reset(seed=1)
    start, done = np.array([True]), False
    while not done:
        action, _ = agent.predict(observation, episode_start=start)
        observation, _, terminated, truncated, info = env.step(action)
        start, done = np.array([False]), terminated or truncated
    run = runs[(runs["attack"] == "sign_flip") & (runs["seed"] == 1)].iloc[0]
    assert run["accuracy"] == pytest.approx(info["accuracy"], abs=1e-6)
    assert run["qv_loss"] == pytest.approx(info["qv_loss"], rel=1e-4)


def test_a_rule_beyond_its_condition_is_named_in_a_footnote(played):
    table = tables.accuracy_table(Records.read(played), 7)
    marks = {row.policy: row.mark for row in table.rows}
    assert marks == {"mean": "", "krum": "¹", "median": "²", "gaa": "", "oracle": ""}
    assert table.footnotes[0] == "¹ told f = 3, the largest it accepts (needs n >= 2f + 3)"
    assert table.footnotes[1] == "² told f = 4, the largest it accepts (needs n >= 2f + 1)"
    assert check(small(num_byzantine=(3,))) == []


def test_the_oracle_is_last_and_never_the_best(played):
    table = tables.accuracy_table(Records.read(played), 7)
    assert table.rows[-1].policy == "oracle"
    assert table.rows[-1].reference
    assert not any(cell.best for cell in table.rows[-1].cells)
    for column in range(2):
        assert sum(row.cells[column].best for row in table.rows) >= 1


def test_the_table_fits_its_width(played):
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    tables.show(Records.read(played), console)
    text = console.export_text()
    assert "…" not in text
    assert "oracle (reference)" in text
    assert max(map(len, text.splitlines())) <= 80


def test_many_attacks_are_split_over_several_tables():
    names = [f"attack_number_{i}" for i in range(8)]
    cells = [tables.Cell("90.0 ± 1.0")] * 8
    table = tables.AccuracyTable("title", names, [tables.Row("mean", "", cells, False)])
    console = Console(width=60, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(tables.for_terminal(table, 60))
    text = console.export_text()
    assert "…" not in text
    assert all(name in text for name in names)


def test_several_numbers_of_byzantine_workers(tmp_path):
    records = compare(small(num_byzantine=(0, 3), policies=("mean", "oracle"), rounds=5), tmp_path)
    assert records.results["num_byzantine"].unique().tolist() == [0, 3]
    assert records.results.query("num_byzantine == 0")["detection_auc"].isna().all()
    files = {path.name for path in report.write(records, tmp_path)}
    assert {"accuracy_f0.png", "accuracy_f3.png", "overview.png"} <= files


def test_a_policy_and_an_attack_of_ones_own(tmp_path):
    class First:
        def reset(self):
            pass

        def credits(self, view):
            assert not hasattr(view, "byzantine")
            return torch.eye(view.num_workers)[0].expand(view.num_envs, -1)

    agents.register("first_of_all", First)
    attacks.register("own_attack", lambda: lambda gradients, byzantine, context: gradients * 0)
    records = compare(small(policies=("first_of_all",), attacks=("own_attack",), rounds=3), tmp_path)
    assert len(records.results) == 2


def test_attacks_that_know_the_rule_see_that_of_the_policy(rules_seen):
    for policy, rule in (("krum", aggregation.Krum), ("median", aggregation.Median)):
        play_batch(small(policies=(policy,), attacks=("curious",), rounds=2), policy, 3)
        assert type(rules_seen[-1]) is rule
        assert rules_seen[-1].num_byzantine == 3


def test_results_are_not_replaced(played):
    before = {path.name: path.read_bytes() for path in played.iterdir()}
    with pytest.raises(FileExistsError, match="already holds results"):
        begin(small(), played)
    assert before == {path.name: path.read_bytes() for path in played.iterdir()}


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_file_is_no_folder_for_results(tmp_path, overwrite):
    path = tmp_path / "notes.txt"
    path.write_text("mine")
    with pytest.raises(FileExistsError, match=r"out must be a folder, but .*notes\.txt is a file"):
        begin(small(), path, overwrite)
    assert path.read_text() == "mine"


def test_an_agent_is_reset_before_it_is_asked(tmp_path):
    class Remembering:
        def reset(self):
            self.memory = None

        def aggregate(self, view):
            mean = view.gradients.mean(1)
            self.memory = mean if self.memory is None else 0.9 * self.memory + 0.1 * mean
            return self.memory

    agents.register("test_remembering", Remembering)
    records = compare(small(policies=("test_remembering",), rounds=3), tmp_path)
    assert set(records.results["policy"]) == {"test_remembering"}


def test_results_stay_where_their_replacement_cannot_be_written(tmp_path):
    compare(small(policies=("mean",), rounds=3), tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    (tmp_path / "results.csv.partial").mkdir()  # stands for a full disk
    with pytest.raises(OSError, match="partial"):
        compare(small(policies=("krum",), rounds=3), tmp_path, overwrite=True)
    (tmp_path / "results.csv.partial").rmdir()
    assert before == {path.name: path.read_bytes() for path in tmp_path.iterdir()}


def test_overwrite_replaces_results_and_nothing_else(tmp_path):
    compare(small(policies=("mean",), rounds=3), tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "accuracy_f9.png").write_bytes(b"of an earlier comparison")
    compare(small(policies=("krum",), rounds=3), tmp_path, overwrite=True)
    assert set(Records.read(tmp_path).results["policy"]) == {"krum"}
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert not (tmp_path / "accuracy_f9.png").exists()


def test_an_interrupted_comparison_keeps_what_is_finished(tmp_path):
    def progress(policy, rounds):
        if policy == "krum":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compare(small(rounds=3), tmp_path, progress=progress)
    records = Records.read(tmp_path)
    assert set(records.results["policy"]) == {"mean"}
    assert report.write(records, tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": 0}, "seeds must be an integer of at least 1, got 0"),
        ({"num_byzantine": (10,)}, "num_byzantine must be an integer from 0 to 9, got 10"),
        ({"num_byzantine": ()}, "num_byzantine must not be empty"),
        ({"policies": ("mean", "mean")}, "policies must not repeat mean"),
        ({"attacks": ("ipm:epsilon",)}, "name:key=value"),
        ({"evaluate_every": 0}, "evaluate_every"),
        ({"rounds": 0}, "rounds"),
    ],
)
def test_bad_arguments(changes, message):
    with pytest.raises(ValueError, match=message):
        small(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"policies": ("nobody",)}, "unknown name 'nobody' in policies; known: .*gaa.*krum"),
        ({"attacks": ("nobody",)}, "unknown name 'nobody' in attacks; known: .*ipm"),
        ({"learning_rate": -1.0}, "-1.0"),
        ({"attacks": ("gaussian:std=-1",)}, "std"),
        ({"attacks": ("ipm:nothing=1",)}, "its parameters: epsilon"),
        ({"policies": ("gaa:window=0",)}, "window"),
        ({"policies": ("fixed:credits=[1,2]",)}, "10 entries"),
        ({"policies": ("krum:num_byzantine=5",)}, "n >= 2f"),
        ({"task": "nothing"}, "unknown task"),
        ({"task": "mnist", "data_root": "/nowhere"}, "nowhere"),
        ({"qv_size": 100_000}, "qv_size"),
        ({"roles": "fluctuating:high=20"}, "high"),
        ({"device": "nothing"}, "device"),
    ],
)
def test_what_cannot_run_fails_before_anything_is_written(changes, message, tmp_path):
    with pytest.raises((ValueError, TypeError, OSError, RuntimeError), match=message):
        begin(small(**changes), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_run_that_ends_with_an_exploded_loss_has_diverged():
    signs = (-1.0) ** torch.arange(64 * 32)
    attacks.register("far", lambda: lambda g, b, c: 1e6 * signs[: g.shape[2]].expand_as(g))
    comparison = Comparison(task="synthetic", policies=("mean",), attacks=("far", "none"), seeds=1, rounds=2)
    assert [run["diverged"] for run in play_batch(comparison, "mean", 7).results] == [True, False]


def test_a_line_of_equal_credits_stands_only_where_it_is_known(played):
    records = Records.read(played)
    changing = dataclasses.replace(
        records, comparison=dataclasses.replace(records.comparison, roles="fluctuating")
    )
    for each, drawn in ((records, True), (changing, False)):
        (legend,) = [axes.get_legend_handles_labels()[1] for axes in byzantine_credits(each, 7).axes]
        assert ("equal credits" in legend) is drawn


def test_headings_say_where_roles_change():
    assert small().workers(3).endswith("workers Byzantine")
    assert small(roles="fluctuating").workers(3).startswith("3 of 10 workers assigned to be Byzantine, roles")


def test_only_a_rule_that_byzgym_tells_less_is_noted():
    assert told("krum", 10, 7).told == 3
    assert told("krum", 10, 3) is None
    assert told("krum:num_byzantine=1", 10, 3) is None
    assert told("krum:num_byzantine=3", 10, 7) is None  # its user has said so
