import re

import pytest

from byzgym.experiments import Comparison, sweep

GRID = """
task = "synthetic"
policies = ["mean", "krum"]
attacks = "ipm"
seeds = 2
learning_rate = {initial = 0.1, schedule = "cosine"}

[grid]
qv_size = [5, 10]
partition = ["iid", "dirichlet: alpha=0.1"]
"""


@pytest.fixture
def read(tmp_path):
    """Reads a text as a file."""

    def reading(text):
        path = tmp_path / "my.toml"
        path.write_text(text, encoding="utf-8")
        return sweep.read(path)

    return reading


def test_every_combination_is_a_setting(read):
    comparisons = read(GRID)
    common = {"task": "synthetic", "policies": ("mean", "krum"), "attacks": "ipm", "seeds": 2}
    common |= {"learning_rate": {"initial": 0.1, "schedule": "cosine"}}
    assert comparisons == [
        Comparison(**common, qv_size=size, partition=partition)
        for size in (5, 10)
        for partition in ("iid", "dirichlet:alpha=0.1")
    ]
    assert sweep.named(comparisons)[1] == "partition=dirichlet:alpha=0.1, qv_size=5"


def test_a_file_without_a_grid_is_a_comparison(read):
    assert read("") == [Comparison()]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seeds = ", "my.toml: it must be a TOML file: "),
        ("seed = 3", "my.toml: unknown key 'seed'; did you mean 'seeds'? known: task, .*grid"),
        ("seeds = 0", "my.toml: seeds must be an integer of at least 1, got 0"),
        ("[grid]\nseed = [3]", "unknown key of [grid] 'seed'; did you mean 'seeds'?"),
        ("[grid]\nseeds = 3", "my.toml: grid.seeds must be a list of at least one value, got 3"),
        ("[grid]\nseeds = []", "grid.seeds must be a list of at least one value, got []"),
        ("[grid]\nqv_size = [3, 3]", "grid.qv_size must not repeat a value, got [3, 3]"),
        ("rounds = 3\n[grid]\nrounds = [3]", "rounds must be given once, got it above [grid] and in it"),
        ("grid = 3", "grid must be a table [grid], got 3"),
        (
            "[grid]\nrounds = [3, 0]\nqv_size = [5]",
            "my.toml: [grid] rounds=0, qv_size=5: rounds must be an integer of at least 1, got 0",
        ),
        (
            "[grid]\nbatch_size = [16, -1]",
            "my.toml: [grid] batch_size=-1: batch_size must be an integer of at least 1, got -1",
        ),
        ('attacks = ["ipm", "ipm"]', "my.toml: attacks must not repeat ipm"),
    ],
)
def test_mistakes(read, text, message):
    with pytest.raises(ValueError, match=re.escape(message).replace(r"\.\*", ".*")):
        read(text)


def test_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.toml is not a file"):
        sweep.read(tmp_path / "none.toml")


def test_folders_follow_from_the_setting_alone():
    setting = {"task": "synthetic", "partition": "dirichlet:alpha=0.1"}
    first = sweep.folder(Comparison(**setting))
    more = {"policies": "mean", "attacks": "ipm", "num_byzantine": 3, "seeds": 9, "first_seed": 4}
    assert (
        sweep.folder(Comparison(**setting, **more)) == first == "task=synthetic,partition=dirichlet-alpha=0.1"
    )


def test_folders_are_short_and_differ():
    models = [f"registered_with_a_long_name_{end}" for end in ("A", "a", "b" * 60, "b" * 61)]
    tasks = [f"csv:path={path}.csv,label=y" for path in ("a/b", "a-b", "a:b")]
    rates = [{"initial": rate, "schedule": "cosine"} for rate in (0.1, 0.2)]
    chosen = [Comparison(model=model) for model in models] + [Comparison(task=task) for task in tasks]
    folders = [sweep.folder(one) for one in [*chosen, *(Comparison(learning_rate=rate) for rate in rates)]]
    assert len({name.lower() for name in folders}) == len(folders)  # some file systems do not tell A from a
    assert max(map(len, folders)) <= 87
    assert all(re.fullmatch(r"[\w=,.+-]+", name) for name in folders)


def test_names_are_of_settings():
    """Two settings of which one has more policies and attacks are told apart by what makes settings."""
    more = {"policies": ("mean", "krum"), "attacks": ("ipm", "alie"), "num_byzantine": (1, 2), "seeds": 7}
    assert sweep.named([Comparison(qv_size=5), Comparison(qv_size=20, **more)]) == ["qv_size=5", "qv_size=20"]
