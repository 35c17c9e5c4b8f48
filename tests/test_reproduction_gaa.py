"""baselines/reproductions/gaa.py runs, and its checks can come out both ways."""

import pandas as pd
import pytest

from byzgym.experiments.results import Results
from tests.test_baselines import script


@pytest.fixture
def gaa(monkeypatch):
    return script("reproductions/gaa", monkeypatch)


def verdicts(printed):
    return [line for line in printed.splitlines() if line.endswith(("| reproduced |", "| **differs** |"))]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:batch_size")
def test_gaa_judges_each_claim_and_goes_on(gaa, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(gaa, "STUDIES", {"toy": gaa.Study("synthetic", 4, None, ("krum",))})
    monkeypatch.setattr(gaa, "seconds", lambda policy, *_, **__: {"gaa": 9.0}.get(policy, 1.0))
    config = gaa.Config(studies=("toy",), out=tmp_path, seeds=1, first_seed=5)
    gaa.main(config)
    first = verdicts(capsys.readouterr().out)
    assert len(first) == 10
    assert "9.00 x mean" in first[-1]
    assert first[-1].endswith("**differs** |")
    monkeypatch.setattr("byzgym.experiments.play.play_batch", None)
    gaa.main(config)
    assert verdicts(capsys.readouterr().out) == first
    assert set(Results.read(tmp_path).runs["seed"]) == {5}


def test_an_unknown_study_is_refused(gaa):
    with pytest.raises(SystemExit, match=r"studies must be some of \['CMS', .*\], got \['Cms'\]"):
        gaa.main(gaa.Config(studies=("MNIST", "Cms")))


def test_gaa_is_near_within_two_points_of_the_mean_without_an_attack(gaa):
    rows = [("none", 0, "none", "mean", 90.0, None)]
    for kind, f, attacks in [
        ("static", 3, gaa.STATIC),
        ("static", 9, gaa.STATIC),
        ("randomized", 7, gaa.STATIC),
        ("pretense", 9, gaa.STATIC),
        ("adaptive", 7, gaa.PARTLY + gaa.FULLY),
    ]:
        for attack in attacks:
            rows.append((kind, f, attack, "gaa", 88.0, 0.95))
            rows.append((kind, f, attack, "krum", 89.0 if f == 3 else 20.0, 0.5))
    columns = ["kind", "num_byzantine", "attack", "policy", "accuracy", "detection_auc"]
    runs = pd.DataFrame(rows, columns=columns).assign(diverged=0)
    assert [agree for *_, agree in gaa.claims(runs)] == [True] * 5 + [False] + [True] * 3
    runs.loc[(runs["policy"] == "gaa") & (runs["attack"] == "random"), "accuracy"] = 87.9
    found = list(gaa.claims(runs))
    assert [agree for *_, agree in found] == [False] * 4 + [True, False] + [True] * 3
    assert found[0][2] == "87.9 (random) of 90.0"
    assert [agree for *_, agree in found[6:8]] == [True, True]
    runs.loc[runs["policy"] == "krum", "accuracy"] = 49.0
    runs.loc[(runs["policy"] == "krum") & (runs["num_byzantine"] == 3), "diverged"] = 1
    krum = list(gaa.claims(runs))[6:8]
    assert [shown for _, _, shown, _ in krum] == ["49.0† (krum) of 90.0", "49.0 (krum) of 90.0"]
    assert [agree for *_, agree in krum] == [False, True]
