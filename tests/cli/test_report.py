from byzgym import agents, attacks
from byzgym.experiments import Comparison, compare


def test_what_is_not_registered_any_more(tmp_path, output):
    agents.register("test_mine", lambda: agents.make("uniform"))
    attacks.register("test_zero", attacks.Zero)
    given = {"policies": ("test_mine", "mean"), "attacks": "test_zero", "seeds": 2, "rounds": 3}
    compare(Comparison(task="synthetic", **given), tmp_path)
    del agents.registry.registry._factories["test_mine"], attacks.registry.registry._factories["test_zero"]
    assert "test_mine" in output("report", tmp_path)


def test_a_report_that_cannot_be_written(tmp_path, mistake):
    compare(Comparison(task="synthetic", rounds=3, seeds=1, policies="mean", attacks="ipm"), tmp_path)
    (tmp_path / "report.md").mkdir()
    assert f"cannot write {tmp_path / 'report.md'}" in mistake("report", tmp_path)


def test_the_shape_of_figures(tmp_path, output, mistake):
    given = {"policies": ("mean", "krum"), "attacks": "ipm", "seeds": 1, "rounds": 3}
    compare(Comparison(task="synthetic", **given), tmp_path)
    text = output("report", tmp_path, "--formats", "svg", "pdf", "--highlight", "krum")
    assert "overview.svg, overview.pdf" in " ".join(text.split())
    assert not (tmp_path / "overview.png").exists()
    assert "](overview.svg)" in (tmp_path / "report.md").read_text()
    assert "#bdbdbd" in (tmp_path / "report.html").read_text()
    assert "unknown policy to highlight 'krumm'" in mistake("report", tmp_path, "--highlight", "krumm")
