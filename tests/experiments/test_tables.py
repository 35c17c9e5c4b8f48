import dataclasses

import pytest

from byzgym import attacks
from byzgym.experiments.results import Told
from byzgym.experiments.tables import Signs, accuracy_table, detection_table, difference_table


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


def test_detection_lists_policies_with_credits(results):
    rows = {row.name: [cell.text for cell in row.cells] for row in detection_table(results, 7).rows}
    assert "median" not in rows
    assert rows["oracle (reference)"] == ["0.00 / 1.00"] * 2
