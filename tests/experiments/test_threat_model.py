import json

import torch

from byzgym import agents, aggregation, attacks
from byzgym.experiments import compare, threat_model
from byzgym.experiments.results import Results
from byzgym.experiments.threat_model import FIELDS, NOT_DECLARED, RUN_FIELDS
from byzgym.simulation import Simulation


def record_of(policy, attack="sign_flip", num_byzantine=7, **arguments):
    arguments = {"task": "synthetic", "rounds": 5, **arguments}
    simulation = Simulation.make(seed=0, attack=attack, num_byzantine=num_byzantine, **arguments)
    agent = agents.build(policy, simulation)
    return threat_model.record(policy, "synthetic", agent, simulation)


def check(record, **expected):
    assert {name: record[name] for name in expected} == expected


def test_every_field_is_there_and_is_plain_json():
    record = record_of("krum")
    assert list(record) == list(FIELDS)
    assert json.loads(json.dumps(record)) == record


def test_krum_with_more_byzantine_workers_than_its_bound():
    # n = 10 >= 2f + 3 holds up to f = 3, and 7 workers are bad
    check(
        record_of("krum"),
        policy_origin="byzgym",
        policy_kind="rule",
        condition="n >= 2f + 3",
        told_num_byzantine=3,
        told_qv_samples=0,
        keeps_memory=False,
        gives_credits=True,
        num_workers=10,
        num_submissions=10,
        tolerated_num_byzantine=3,
        tolerated_fraction=0.3,
        actual_num_byzantine=7,
        actual_fraction=0.7,
        within_bound=False,
        update_bound="not provided",
        sybil_resistance="not provided",
    )
    check(record_of("krum", num_byzantine=3), told_num_byzantine=3, within_bound=True)
    # what the name says is told, whatever the truth
    check(record_of("krum:num_byzantine=1"), told_num_byzantine=1, tolerated_num_byzantine=3)


def test_a_rule_that_is_told_too_little():
    # trimmed_mean tolerates 4 of 10, but cuts off a single one on either side.
    record = record_of("trimmed_mean:num_byzantine=1", num_byzantine=3)
    check(record, told_num_byzantine=1, tolerated_num_byzantine=4, actual_num_byzantine=3, within_bound=False)


def test_the_metric_says_what_accuracies_are_measured_on():
    simulation = Simulation.make(task="validation:synthetic", rounds=5, num_byzantine=3, seed=0)
    agent = agents.build("mean", simulation)
    assert record_of("mean")["metric"].startswith("test accuracy")
    record = threat_model.record("mean", "validation:synthetic", agent, simulation)
    assert record["metric"].startswith("validation accuracy")


def test_a_rule_without_a_bound_claims_none():
    for policy in ("mean", "foolsgold", "trust"):
        check(
            record_of(policy),
            condition=None,
            told_num_byzantine=None,
            tolerated_num_byzantine=None,
            tolerated_fraction=None,
            within_bound=None,
        )


def test_what_policies_may_read():
    check(record_of("trust", qv_size=12), told_qv_samples=12, keeps_memory=True)
    check(record_of("fltrust", qv_size=12), told_qv_samples=12, keeps_memory=False)
    gaa = record_of("gaa", qv_size=12)
    check(gaa, policy_kind="agent", told_qv_samples=12, keeps_memory=True, condition=None, claims=None)
    check(record_of("uniform"), told_qv_samples=0, keeps_memory=False)
    check(record_of("oracle"), policy_kind="reference", policy_origin="byzgym")


def test_bounds_of_updates():
    check(record_of("norm_clipping:max_norm=3"), update_bound="norm at most 3.0")
    check(record_of("static_clipping:max_norm=1.5+krum"), update_bound="norm at most 1.5")
    both = record_of("static_clipping+centered_clipping:radius=4")
    check(both, update_bound="norm at most 2.0; distance from the last aggregate at most 4.0")
    assert "past submissions are alike" in record_of("foolsgold")["sybil_resistance"]


def test_every_bound_can_be_spelt():
    """Names in braces are attributes."""
    for name in aggregation.names():
        if getattr(aggregation.registry.registry.factory(name), "update_bound", None):
            assert "{" not in record_of(name, num_byzantine=1)["update_bound"]


def test_pre_aggregators_and_inner_rules():
    # NNM demands n >= 2f + 1, so that Krum's bound counts: 3 of 10
    nnm = record_of("nnm+krum")
    check(nnm, policy="nnm+krum", tolerated_num_byzantine=3, told_num_byzantine=3, policy_origin="byzgym")
    assert nnm["condition"] == "n >= 2f + 1 and n >= 2f + 3"
    inner = record_of("ensemble:members=krum+gaa")["inner_policies"]
    assert inner == ["krum (told f = 3)", "GAA"]


def test_secure_groups():
    # 10 workers in groups of 2: 5 submissions, of which Krum tolerates 1 (5 >= 2 * 1 + 3)
    record = record_of("krum", num_byzantine=1, secure_group_size=2)
    check(record, num_submissions=5, tolerated_num_byzantine=1, tolerated_fraction=0.2, within_bound=True)
    check(record, actual_fraction=0.1, secure_group_size=2)
    assert "means over groups of 2" in record["secure_aggregation"]
    check(record_of("krum", num_byzantine=2, secure_group_size=2), within_bound=False)
    assert record_of("krum")["secure_aggregation"].startswith("not provided")


def test_cohorts():
    # 3 of 10 workers are bad, 5 take part: 1.5 are expected, 2 rounded up, and Krum tolerates 1 of 5
    record = record_of("krum", num_byzantine=3, cohort_size=5)
    check(record, cohort_size=5, num_submissions=5, tolerated_num_byzantine=1, within_bound=False)
    check(record, actual_num_byzantine=3, actual_fraction=0.3)


def test_attacks():
    check(record_of("mean"), attack="sign_flip", attack_target=["submissions"], attack_knowledge=[])
    check(record_of("mean", "label_flip"), attack_target=["data"], backdoor=False)
    check(record_of("mean", "backdoor:target=1"), attack_target=["data"], backdoor=True)
    check(record_of("mean", "model_replacement:target=1"), attack_target=["data", "submissions"])
    check(record_of("mean", "ipm:optimize=True"), attack_knowledge=["rule"])
    check(record_of("mean", "leaked_qv"), attack_knowledge=["qv"])
    check(record_of("mean", roles="randomized:period=3"), roles="randomized:period=3", roles_knowledge=[])


def test_a_fault_in_transmission_has_no_byzantine_workers():
    record = record_of("krum", "gambler")
    check(record, attack_target=["transmission"], actual_num_byzantine=0, actual_fraction=0.0)
    check(record, told_num_byzantine=3, tolerated_num_byzantine=3, within_bound=None)


def test_evidence_is_what_the_runs_have(small, tmp_path):
    runs = small(policies=("mean", "oracle"), attacks=("gambler", "ipm"), num_byzantine=2)
    found = {(one["policy"], one["attack"]): one for one in compare(runs, tmp_path).threat_models}
    credits = "credits of every round, and who was Byzantine"
    for (policy, attack), record in found.items():
        assert record["gives_credits"] == (credits in record["evidence"])
        assert record["gives_credits"] == ((policy, attack) != ("oracle", "gambler"))
        assert ("detection AUC" in record["evidence"]) == (attack == "ipm")


def test_rules_and_attacks_of_the_user():
    aggregation.register("test_middle", lambda: lambda gradients: gradients.median(-2).values)
    attacks.register("test_zero", lambda: lambda gradients, byzantine, context: gradients * 0)
    agents.register("test_half", Half)
    record = record_of("test_middle", "test_zero")
    check(record, policy_origin="user", attack_origin="user", attack_target=["submissions"])
    check(record, condition=None, told_num_byzantine=None, told_qv_samples=0, claims=[])
    check(record, update_bound=NOT_DECLARED, sybil_resistance=NOT_DECLARED)
    agent = record_of("test_half")
    check(agent, policy_kind="agent", told_qv_samples=NOT_DECLARED, keeps_memory=NOT_DECLARED)
    check(record_of("nnm+test_middle"), policy_origin="user", condition="n >= 2f + 1")


class Half:
    def credits(self, view):
        return torch.full_like(view.previous_credits, 0.5 / view.num_workers)


def test_the_store_keeps_them(results, folder):
    entries = Results.read(folder).threat_models
    runs = results.runs
    assert [(entry["policy"], entry["attack"]) for entry in entries] == list(
        dict.fromkeys(zip(runs["policy"], runs["attack"], strict=True))
    )
    for entry in entries:
        assert list(entry) == [*FIELDS, "runs"]
        assert [list(run) for run in entry["runs"]] == [list(RUN_FIELDS)] * 2
        assert [run["seed"] for run in entry["runs"]] == [0, 1]
    own = runs[(runs["policy"] == "krum") & (runs["attack"] == "sign_flip")]
    (krum,) = (entry for entry in entries if (entry["policy"], entry["attack"]) == ("krum", "sign_flip"))
    assert [run["accuracy"] for run in krum["runs"]] == own["accuracy"].tolist()
    assert [run["detection_auc"] for run in krum["runs"]] == own["detection_auc"].tolist()
    check(krum, rounds=20, task="synthetic", within_bound=False)


def test_numbers_of_byzantine_workers_have_records_of_their_own(small, tmp_path):
    entries = compare(small(num_byzantine=(1, 3), policies="krum", rounds=2), tmp_path).threat_models
    assert [entry["actual_num_byzantine"] for entry in entries] == [1, 1, 3, 3]
    assert [entry["told_num_byzantine"] for entry in entries] == [1, 1, 3, 3]


def test_json_says_what_its_entries_mean(results):
    document = json.loads(threat_model.as_json(results.threat_models))
    assert document["version"] == threat_model.VERSION
    assert len(document["records"]) == 10
    assert set(document["fields"]) | {"runs"} == set(document["records"][0])
    assert document["run_fields"] == RUN_FIELDS


def test_markdown_states_once_what_is_the_same(results):
    text = threat_model.as_markdown(results.threat_models)
    assert text.count("- task: synthetic") == 1
    rows = [line for line in text.splitlines() if line.startswith("| krum | ")]
    assert len(rows) == 3  # of the policy, and under two attacks
    assert any("ipm:epsilon=2.0" in row for row in rows)
    for name in ("policy", "attack", "condition"):
        assert f"- {threat_model.label(name)}: {FIELDS[name]}" in text


def test_markdown_of_nothing():
    assert "No run is finished" in threat_model.as_markdown([])


def test_one_record(results):
    text = threat_model.as_markdown(results.threat_models[:1])
    assert "runs: 2, combinations of policy and attack: 1." in text
    assert [line for line in text.splitlines() if line.startswith("| mean | sign_flip |")]


def test_fields_are_described():
    assert all(text.endswith(".") for text in [*FIELDS.values(), *RUN_FIELDS.values()])
