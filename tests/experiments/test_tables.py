import dataclasses
import re

import pytest

from byzgym import attacks
from byzgym.experiments.results import Told
from byzgym.experiments.statistics import counted
from byzgym.experiments.tables import (
    Signs,
    accuracy_table,
    detection_table,
    difference_table,
    success_table,
    summary_table,
)


def test_rules_beyond_their_condition_get_a_mark(results):
    table = accuracy_table(results, 7)
    assert [row.name for row in table.rows] == ["mean", "krum ¹", "median ²", "gaa", "oracle (reference)"]
    assert table.notes[1] == "¹ told f = 3, the largest it accepts (needs n >= 2f + 3)"
    assert table.notes[2] == "² told f = 4, the largest it accepts (needs n >= 2f + 1)"


def test_each_rule_inside_a_policy_gets_a_mark(results):
    told = [Told("gaa", 7, f, "", rule) for f, rule in ((3, "krum"), (4, "faba"))]
    table = accuracy_table(dataclasses.replace(results, told=told), 7)
    assert table.rows[3].name == "gaa ¹ ²"
    assert table.notes[1] == "¹ krum is told f = 3, the largest it accepts"
    assert table.notes[2] == "² faba is told f = 4, the largest it accepts"


def test_signs_without_bold_and_unicode(results):
    runs = results.runs.assign(diverged=results.runs["policy"] == "gaa")
    table = accuracy_table(dataclasses.replace(results, runs=runs), 7, Signs("!", "+-", (), best="*"))
    text = "\n".join([*table.notes, *(row.name for row in table.rows)])
    assert "krum (1)" in text
    assert "+- standard deviation over 2 seeds" in text
    assert "best marked *, references aside" in text
    assert "! a run diverged" in text
    assert text.isascii()
    for column in range(2):
        cells = [row.cells[column] for row in table.rows]
        assert all(("*" in cell.marks) == cell.best for cell in cells)
        assert cells[3].marks.startswith("!")


def test_the_reference_is_never_the_best(results):
    table = accuracy_table(results, 7)
    assert table.rows[-1].reference
    assert not any(cell.best for cell in table.rows[-1].cells)
    for column in range(2):
        assert any(row.cells[column].best for row in table.rows)


@pytest.mark.parametrize(("f", "shown"), [(0, []), (1, ["warning", "does not attack"]), (7, ["z = 1.50"])])
def test_effective_z_is_shown(results, f, shown):
    class Attack(attacks.SignFlip):
        def effective_z(self, num_workers, num_byzantine):
            return 1.5 if num_byzantine > 5 else -0.14

    attacks.register("test_z", Attack)
    comparison = dataclasses.replace(results.comparison, attacks=("test_z",), num_byzantine=(f,))
    runs = results.runs.assign(attack="test_z", num_byzantine=f)
    table = accuracy_table(dataclasses.replace(results, comparison=comparison, runs=runs), f)
    notes = [note for note in table.notes if "z =" in note]
    assert len(notes) == (f > 0)
    assert all(word in notes[0] for word in shown)
    assert all(f"n=10, f={f}" in note for note in notes)


def test_differences_are_to_the_leader(results):
    table = difference_table(results, 7)
    first = table.columns[0].removesuffix(" less ...")
    assert first not in {row.name for row in table.rows}
    assert table.columns[1:] == ["mean of all attacks", *results.comparison.attacks]
    assert len(table.rows) == 4


ONE_VALUE = r"\d+(\.\d)?"
WITH_INTERVAL = rf"{ONE_VALUE} \[{ONE_VALUE}, {ONE_VALUE}\]"


def test_the_summary_has_the_worst_case_first(results):
    table = summary_table(results, 7)
    assert table.columns == ["policy", "worst case", "IQM", "beats best rule", "worst attack"]
    means = counted(results.runs).groupby(["policy", "attack"])["accuracy"].mean()
    for row, policy in zip(table.rows, ("mean", "krum", "median", "gaa", "oracle"), strict=True):
        worst, middle, beats, attack = (cell.text for cell in row.cells)
        assert worst.split()[0] in (f"{100 * means[policy].min():.1f}", "100")
        assert attack == means[policy].idxmin()
        assert all(re.fullmatch(WITH_INTERVAL, text) for text in (worst, middle))
        assert beats == "–" or re.fullmatch(WITH_INTERVAL, beats)
    assert [cell.best for cell in table.rows[-1].cells] == [False] * 4  # the reference
    assert "4 runs (2 attacks x 2 seeds)" in table.notes[0]
    assert "2 seeds are few, and the intervals too narrow" in table.notes[1]
    assert "each with its runs under all attacks" in table.notes[1]
    part = dataclasses.replace(results, runs=results.runs.drop(index=results.runs.index[0]))
    assert "for each attack by itself" in summary_table(part, 7).notes[1]
    assert summary_table(results, 7, named=False).columns == table.columns[:-1]


def scored(results, accuracies, **changes):
    """The results with these accuracies, by policy, for sign_flip; those under ipm are 0.9."""
    accuracy = results.runs["policy"].map(accuracies).where(results.runs["attack"] == "sign_flip", 0.9)
    return dataclasses.replace(
        results, runs=results.runs.assign(accuracy=accuracy, diverged=False, **changes)
    )


def test_the_best_rule_is_that_of_the_best_worst_case(results):
    accuracies = {"mean": 0.2, "krum": 0.4, "median": 0.3, "gaa": 0.8, "oracle": 0.9}
    table = summary_table(scored(results, accuracies), 7)
    assert "one of krum under" in table.notes[2]
    # Under sign_flip gaa beats krum, under ipm they are equal: (1 + 1/2) / 2. The others lose: (0 + 1/2) / 2.
    assert [row.cells[2].text.split()[0] for row in table.rows] == ["25", "–", "25", "75", "75"]
    assert [row.cells[0].best for row in table.rows] == [False, False, False, True, False]


def test_among_equal_worst_cases_the_mean_decides(results):
    accuracies = {"mean": 0.1, "krum": 0.1, "median": 0.1, "gaa": 0.8, "oracle": 0.9}
    equal = scored(results, accuracies)
    raised = (equal.runs["policy"] == "median") & (equal.runs["attack"] != "sign_flip")
    equal.runs["accuracy"] = equal.runs["accuracy"].mask(raised, 0.95)
    assert "one of median under" in summary_table(equal, 7).notes[2]


def test_no_rule_to_beat(results):
    runs = results.runs[results.runs["policy"].isin(["gaa", "oracle"])]
    table = summary_table(dataclasses.replace(results, runs=runs), 7)
    assert table.columns == ["policy", "worst case", "IQM", "worst attack"]
    assert not any("best rule" in note for note in table.notes)


def test_one_seed_gives_no_intervals(results):
    one = dataclasses.replace(results, runs=results.runs[results.runs["seed"] == 0])
    table = summary_table(one, 7)
    assert all(re.fullmatch(f"{ONE_VALUE}|–", cell.text) for row in table.rows for cell in row.cells[:3])
    assert "One seed gives no intervals." in table.notes
    assert "2 runs (2 attacks x 1 seed)" in table.notes[0]


def test_the_summary_counts_and_marks_diverged_runs(results):
    changed = scored(results, dict.fromkeys(results.comparison.policies, 0.95))
    of = (changed.runs["policy"] == "gaa") & (changed.runs["attack"] == "sign_flip")
    changed.runs["diverged"] = of & (changed.runs["seed"] == 0)
    classes = changed.runs["num_classes"].iloc[0]
    table = summary_table(changed, 7)
    worst, middle, _, attack = table.rows[3].cells
    assert worst.text.startswith(f"{100 * (0.95 + 1 / classes) / 2:.1f} ")
    assert (worst.marks, middle.marks, attack.text) == ("†", "†", "sign_flip")
    assert table.rows[0].cells[0].marks == ""
    assert table.notes[-1] == "† a run diverged and counts as chance"


def test_detection_lists_policies_with_credits(results):
    rows = {row.name: [cell.text for cell in row.cells] for row in detection_table(results, 7).rows}
    assert "median" not in rows
    assert rows["oracle (reference)"] == ["0.00 / 1.00"] * 2


def test_a_policy_without_finished_runs_has_a_row_that_says_so(results):
    runs = results.runs[results.runs["policy"] != "krum"]
    runs = runs[(runs["policy"] != "gaa") | (runs["attack"] == "sign_flip")]
    some = dataclasses.replace(results, runs=runs)
    last = accuracy_table(some, 7).rows[-1]
    assert last.name.startswith("krum")
    assert [cell.text for cell in last.cells] == ["– (0 of 2)"] * 2
    (gaa,) = [row for row in accuracy_table(some, 7).rows if row.name == "gaa"]
    assert gaa.cells[1].text == "– (0 of 2)"
    assert "of 2" not in gaa.cells[0].text
    table = summary_table(some, 7)
    assert table.rows[-1].name == "krum (no finished runs)"
    assert {cell.text for cell in table.rows[-1].cells} == {"–"}
    assert not any(cell.best for cell in last.cells)


def test_a_policy_without_runs_under_a_backdoor(results):
    runs = results.runs.assign(attack_success_rate=0.5)
    runs = runs[(runs["policy"] != "gaa") | (runs["attack"] == "sign_flip")]
    table = success_table(dataclasses.replace(results, runs=runs), 7)
    (gaa,) = [row for row in table.rows if row.name == "gaa"]
    assert [cell.text for cell in gaa.cells] == ["50.0", "–"]
