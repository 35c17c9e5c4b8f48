import pytest

from byzgym import agents, attacks
from byzgym.experiments import report
from byzgym.experiments.compare import compare
from byzgym.experiments.comparison import Comparison
from byzgym.experiments.records import Records


@pytest.fixture
def folder(tmp_path):
    comparison = Comparison(
        task="synthetic:num_features=4",
        rounds=10,
        seeds=2,
        attacks=("sign_flip", "ipm"),
        policies=("krum", "gaa", "oracle"),
    )
    compare(comparison, tmp_path)
    return tmp_path


def test_figures_and_reports(folder):
    records = Records.read(folder)
    files = report.write(records, folder)
    assert [path.name for path in files] == [
        "overview.png",
        "accuracy_f7.png",
        "final_f7.png",
        "credits_f7.png",
        "report.html",
        "report.md",
    ]
    assert all(path.stat().st_size > 10_000 for path in files[:4])
    html = (folder / "report.html").read_text()
    assert html.count("data:image/png;base64,") == 4
    assert 'src="http' not in html
    assert "oracle (reference)" in html
    assert "told f = 3" in html
    assert "byzgym compare --task synthetic:num_features=4" in html
    assert records.versions["torch"] in html
    markdown = (folder / "report.md").read_text()
    assert "![" in markdown
    assert "overview.png" in markdown


def test_the_report_is_made_again_from_the_files(folder):
    report.write(Records.read(folder), folder)
    before = (folder / "report.html").read_text()
    for name in ("report.html", "report.md", "overview.png"):
        (folder / name).unlink()
    report.write(Records.read(folder), folder)
    assert (folder / "report.html").read_text() == before


def test_results_of_what_is_not_registered_any_more(tmp_path):
    class Even:
        def credits(self, view):
            return view.previous_credits * 0 + 1 / view.num_workers

    agents.register("test_$\\frac$", Even)
    attacks.register("test_zero", attacks.Zero)
    registries = agents.registry.registry, attacks.registry.registry
    given = {"policies": ("test_$\\frac$", "mean"), "attacks": ("test_zero",), "seeds": 2, "rounds": 3}
    compare(Comparison(task="synthetic", **given), tmp_path)
    for registry, name in zip(registries, ("test_$\\frac$", "test_zero"), strict=True):
        del registry._factories[name]
    assert report.write(Records.read(tmp_path), tmp_path)
    assert "test_$\\frac$" in (tmp_path / "report.html").read_text()


def test_names_are_escaped(folder):
    records = Records.read(folder)
    records.versions["torch"] = "<script>"
    report.write(records, folder)
    assert "<script>" not in (folder / "report.html").read_text()


@pytest.mark.parametrize("name", ["results.csv", "curves.csv", "config.json"])
def test_missing_files(folder, name):
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=name):
        Records.read(folder)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("results.csv", ""),
        ("results.csv", "a,b\n1,2\n"),
        ("curves.csv", "policy,attack,num_byzantine,seed,round,accuracy,qv_loss\n"),
        ("curves.csv", "policy,attack,num_byzantine,seed,round,accuracy,qv_loss\na,b,3,0,0,high,1\n"),
        ("curves.csv", "policy,attack,num_byzantine,seed,round,accuracy,qv_loss\na,b,3,0,0,,1\n"),
        ("config.json", "{"),
        ("config.json", "[]"),
        ("config.json", '{"arguments": {}}'),
    ],
)
def test_malformed_files(folder, name, text):
    (folder / name).write_text(text)
    with pytest.raises(ValueError, match=name):
        Records.read(folder)
