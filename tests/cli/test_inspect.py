import json

import pytest

from byzgym.cli import main
from byzgym.forensics import read

PLAY = [
    "inspect",
    "--task",
    "synthetic",
    "--rounds",
    "30",
    "--num-byzantine",
    "3",
    "--attack",
    "ipm",
    "--out",
]


def test_a_run_is_played_recorded_and_drawn(tmp_path, output):
    text = output(*PLAY, tmp_path / "out", "--policy", "oracle")
    assert "oracle, attack ipm, 3 of 10 workers Byzantine, roles static, 30 rounds" in " ".join(text.split())
    assert "3 of 10 workers accused" in text
    assert "AUC 1.00, precision 1.00, recall 1.00" in " ".join(text.split())
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {"record.jsonl", "record.png"}
    record = read(tmp_path / "out" / "record.jsonl")
    assert record.trace.num_rounds == 30
    assert record.configuration["arguments"]["attack"] == ["ipm"]
    assert not {"reward", "reward_size", "evaluate_every"} & record.configuration["arguments"].keys()
    assert output(*PLAY, tmp_path / "out", "--policy", "oracle", "--overwrite") == text


def test_a_fault_in_transmission(tmp_path, output):
    play = [word if word != "ipm" else "gambler:probability=0.01" for word in PLAY]
    for policy in ("oracle", "gaa"):
        text = " ".join(output(*play, tmp_path / policy, "--policy", policy).split())
        assert "a fault in transmission, none of 10 workers Byzantine" in text
        assert "beside the truth: no worker was Byzantine" in text
        assert "AUC" not in text


def test_a_record_shows_the_same(tmp_path, output):
    played = output(*PLAY, tmp_path / "out", "--policy", "faba").split("\n\n")
    (tmp_path / "out" / "record.png").unlink()
    shown = output("inspect", "--record", tmp_path / "out" / "record.jsonl").split("\n\n")
    assert shown == played
    assert (tmp_path / "out" / "record.png").exists()
    output("inspect", "--record", tmp_path / "out" / "record.jsonl", "--out", tmp_path / "other")
    assert (tmp_path / "other" / "record.png").exists()


def test_the_record_of_a_job_that_was_killed(tmp_path, output):
    output(*PLAY, tmp_path, "--policy", "krum")
    header, *rounds, _ = (tmp_path / "record.jsonl").read_text().splitlines()
    bare = [json.loads(line) for line in rounds[:20]]
    for line in bare:
        del line["byzantine"], line["scores"], line["flagged"]
    (tmp_path / "job.jsonl").write_text("\n".join([header, *map(json.dumps, bare), rounds[20][:30]]))
    text = " ".join(output("inspect", "--record", tmp_path / "job.jsonl").split())
    assert "20 rounds (the run was interrupted, or still goes on)" in text
    assert "beside the truth" not in text
    assert (tmp_path / "job.png").exists()


@pytest.mark.parametrize("policy", ["median", "gaa", "uniform"])
def test_policies_with_and_without_credits(tmp_path, output, policy):
    assert "worker" in output(*PLAY, tmp_path, "--policy", policy)


def test_gaa_is_the_default(tmp_path, output):
    assert "gaa, attack ipm" in output(*PLAY, tmp_path)


@pytest.mark.slow
@pytest.mark.global_rng
def test_a_model_is_played(tmp_path, output):
    output("train", "--task", "synthetic", "--steps", "64", "--num-envs", "2", "--out", tmp_path)
    text = output(*PLAY, tmp_path / "out", "--model-path", tmp_path / "model.zip")
    assert "model.zip, attack ipm" in " ".join(text.split())


def test_mistakes(tmp_path, mistake, output):
    output(*PLAY, tmp_path, "--policy", "mean")
    assert "record.jsonl exists; choose another folder" in mistake(*PLAY, tmp_path, "--policy", "mean")
    path = tmp_path / "record.jsonl"
    assert "leave out --policy" in mistake("inspect", "--record", path, "--policy", "krum")
    useless = ["--attack", "ipm", "--overwrite", "--seed=3"]
    assert "leave out --attack, --overwrite, --seed" in mistake("inspect", "--record", path, *useless)
    assert "only for the model of --model-path" in mistake(*PLAY, tmp_path / "new", "--observation", "all")
    assert "there is no record" in mistake("inspect", "--record", tmp_path / "nothing")
    (tmp_path / "text").write_text("text\n")
    assert "no JSON" in mistake("inspect", "--record", tmp_path / "text")
    assert "did you mean 'krum'" in mistake(*PLAY, tmp_path / "new", "--policy", "krmu")
    assert "seed" in mistake(*PLAY, tmp_path / "new", "--seed", "-1")
    assert not (tmp_path / "new").exists()


def test_options_of_the_reward_are_not_offered(capsys, tmp_path):
    for words in (["--reward", "qv"], ["--reward-size", "5"], ["--reward-form", "log"]):
        with pytest.raises(SystemExit):
            main([*PLAY, str(tmp_path), *words])
    assert "reward" in capsys.readouterr().err


def test_help_names_it(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "inspect" in capsys.readouterr().out
