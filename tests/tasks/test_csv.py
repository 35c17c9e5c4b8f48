import os

import pytest
import torch

from byzgym import tasks

ROWS = [f"{i},{('red', 'blue')[i % 2]},{('yes', 'no', 'no')[i % 3]}" for i in range(60)]


@pytest.fixture
def write(tmp_path):
    def write(*lines):
        (tmp_path / "table.csv").write_text("\n".join(lines) + "\n")
        return str(tmp_path / "table.csv")

    return write


def whole(task):
    """All inputs and labels in the order of their first feature."""
    x, y = (torch.cat(parts) for parts in zip(task.train, task.test, task.held_out, strict=True))
    order = x[:, 0].argsort()
    return x[order], y[order]


def test_columns_of_numbers_and_of_text(write, untouched_randomness):
    task = tasks.make_from(f"csv:path={write('size,color,bought', *ROWS)},label=bought")
    assert [len(y) for _, y in (task.train, task.test, task.held_out)] == [38, 12, 10]
    x, y = whole(task)
    assert y.tolist() == [1, 0, 0] * 20  # no, yes
    assert x[:, 1:].tolist() == [[0, 1], [1, 0]] * 30  # blue, red
    assert task.train[0][:, 0].mean().abs() < 1e-6
    assert task.train[0][:, 0].std().item() == pytest.approx(1)
    assert task.test[0][:, 0].mean().abs() > 1e-3  # training rows alone decide


def test_the_split_is_stratified_and_seeded(write):
    path = write("size,bought", *(f"{i},{int(i % 5 == 0)}" for i in range(100)))
    task, other = (tasks.make("csv", path=path, label="bought", seed=seed) for seed in (1, 2))
    assert task.test[1].bincount().tolist() == [16, 4]
    assert not torch.equal(task.test[0], other.test[0])
    assert len(tasks.make("csv", path=path, label="bought", test_fraction=0.5).test[1]) == 50


def test_one_copy_until_the_file_changes(write):
    path = write("size,color,bought", *ROWS)
    first = tasks.make("csv", path=path, label="bought")
    assert tasks.make("csv", path=path, label="bought") is first
    os.utime(path, (1, 1))
    assert tasks.make("csv", path=path, label="bought") is not first


def test_classes_are_sorted_by_value(write):
    path = write("n;3", *(f"{i};{(10, 2, '')[i % 3]}" for i in range(30)))
    x, y = whole(tasks.make("csv", path=path, label=3, delimiter=";"))
    assert len(x) == 20  # those with a label
    assert y.tolist() == [1, 0] * 10
    path = write("n,y", *(f"{i},{('None', 'NA')[i % 2]}" for i in range(30)))
    assert whole(tasks.make("csv", path=path, label="y"))[1].tolist() == [1, 0] * 15


def test_spaces_around_labels(write):
    path = write("n,y", *(f"{i}, {('no', 'yes ', 'no  ', '  ')[i % 4]}" for i in range(40)))
    assert whole(tasks.make("csv", path=path, label="y"))[1].tolist() == [0, 1, 0] * 10


def test_names_and_delimiters_at_the_end_of_lines_may_be_missing(write):
    path = write("n,y,", *(f"{i},{i % 2},{i}" for i in range(40)))
    assert whole(tasks.make("csv", path=path, label="y"))[0].shape == (40, 2)
    path = write("n,y", *(f"{i},{i % 2}," for i in range(40)))
    assert whole(tasks.make("csv", path=path, label="y"))[0].shape == (40, 1)


def test_missing_values(write):
    rows = [f"{i}, {('', i)[i % 2]}, {('a', '?', 'b', 'NA')[i % 4]}, {i % 2}" for i in range(40)]
    task = tasks.make("csv", path=write("n, m, c, y", *rows), label="y")
    x, _ = whole(task)
    assert x.shape == (40, 4)
    assert (x[::2, 1] == 0).all()
    assert (x[1::2, 1].diff() > 0).all()
    assert x[:, 2:].tolist() == [[1, 0], [0, 0], [0, 1], [0, 0]] * 10


def test_columns_without_variety(write):
    rows = [f"{i},0.1,,{i % 2}" for i in range(40)]
    x, _ = whole(tasks.make("csv", path=write("n,same,none,y", *rows), label="y"))
    assert x[:, 1:].abs().max() < 1e-6


def test_columns_by_which_workers_can_be_divided(write):
    rows = [f"{i},{('north', '', 'south')[i % 3]},{(7, 3)[i % 2]},{i % 2},{i}" for i in range(1500)]
    task = tasks.make("csv", path=write("n,region,code,y,text", *rows), label="y")
    assert sorted(task.columns) == ["code", "region"]  # n has more than 1,000 values
    assert task.column("code").unique().tolist() == [0, 1]
    assert torch.equal(task.column("code"), 1 - task.train[1])  # 7 comes after 3
    regions = task.column("region")
    assert (torch.stack([regions == 0, regions == 1]) == task.train[0][:, 1:3].T).all()  # 2 is missing


def test_texts_that_no_training_row_holds(write):
    rows = [f"{i},text{i},{i % 2}" for i in range(40)]
    task = tasks.make("csv", path=write("n,c,y", *rows), label="y")
    assert (task.train[0][:, 1:].sum(1) == 1).all()
    assert (task.test[0][:, 1:] == 0).all()


TWO = [f"{i},{i % 2}" for i in range(20)]


@pytest.mark.parametrize(
    ("lines", "parameters", "message"),
    [
        (["n,y", *TWO], {"label": "yy"}, r"unknown column of .*'yy'; did you mean 'y'\? known: n, y"),
        (["n,y", *TWO], {"delimiter": ";"}, "unknown column of .*with delimiter ';'.* known: n,y"),
        (["n,y", *TWO], {"delimiter": ""}, "delimiter must be one character, got ''$"),
        (["n,y", *TWO], {"delimiter": r"\t"}, "delimiter must be one character, got "),
        (["n,y", *TWO], {"delimiter": 1}, "delimiter must be one character, got 1"),
        (["n,y", *TWO], {"test_fraction": 1.0}, "test_fraction must be less than 1, got 1.0"),
        (
            ["n,y", *TWO],
            {"test_fraction": 0.01},
            "test_fraction=0.01 does not suit the labels in column 'y' of .*: with 20 samples of 2 classes, "
            r"the share .* greater than 0\.05 and at most 0\.9, .*, got 0\.01$",
        ),
        (["n,y", *TWO], {"test_fraction": 0.91}, r"at most 0\.9, .*, got 0\.91$"),
        (
            ["n,y", "1,a", "2,a", "3,b", "4,b"],
            {},
            r"4 samples of 2 .* than 0\.25 and at most 0\.5, .* got 0\.2$",
        ),
        (["n,y", *TWO], {"seed": -1}, "seed must be an integer"),
        ([], {}, "cannot be read as a CSV file"),
        (["n,y", "1,2", "1,2,3,4"], {}, "cannot be read as a CSV file.* line 3, saw 4$"),
        (["n,y"], {}, "must have a column beside 'y' and a row"),
        (["y", "1", "2"], {}, "must have a column beside 'y' and a row"),
        (["n,y", "1,a", "2,a", "3,a"], {}, "'y' of .* at least two labels, .* got 1 of them, 'a' in 3"),
        (["n,y", "1,0.5", "2,0.7", "3,0.7"], {}, "each in at least two rows, got 2 of them, 0.5 in 1"),
        (
            ["n,y", *(f"row{i},{i},{i % 2}" for i in range(20))],
            {},
            "cannot be read as a CSV file: Length of header",
        ),
        (
            ["y,n,m,n,y", *(f"{i % 2},{i},3,4,{i % 2}" for i in range(20))],
            {},
            r"different names, .*\['y', 'n'\]$",
        ),
        (["n,y", "1", "2"], {}, "must have a column beside 'y' and a row"),
        (["n,y", "inf,0", *TWO], {}, "column 'n' of .* must hold finite numbers up to 3.4e.38, got inf"),
        (
            ["n,y", "-1e308,0", *TWO],
            {},
            "column 'n' of .* must hold finite numbers up to 3.4e.38, got 1e.308",
        ),
        (
            ["n,y", *(f"t{i},{i % 2}" for i in range(1500))],
            {},
            "'n' of .* at most 1000 .* got 1080",
        ),
    ],
)
def test_bad_tables(write, lines, parameters, message):
    path = write(*lines)
    with pytest.raises(ValueError, match=message):
        tasks.make("csv", **{"path": path, "label": "y", **parameters})


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"path must be an existing file, got .*none\.csv'"):
        tasks.make("csv", path=tmp_path / "none.csv", label="y")
    with pytest.raises(TypeError, match="missing a required argument: 'label'; its parameters: path, label"):
        tasks.make_from("csv:path=none.csv")
