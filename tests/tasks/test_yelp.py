import math
import os

import pytest
import torch
from sklearn.utils import murmurhash3_32

from byzgym import tasks
from byzgym.tasks import tables
from byzgym.tasks.yelp import LARGEST_ID

ROOT = os.environ.get(tables.ROOT_VARIABLE)
TEXTS = ["bad awful", "bad food", "so so", "good food", '"good, great food"']


def rows(count=100):
    """Reviews with 1 to 5 stars in turn, each kind with a text of its own."""
    return [f"user{i % 7},{i % 5 + 1},{TEXTS[i % 5]},{i}" for i in range(count)]


@pytest.fixture
def write(tmp_path):
    def write(*lines):
        (tmp_path / "yelp").mkdir(exist_ok=True)
        (tmp_path / "yelp" / "yelp.csv").write_text("\n".join(lines) + "\n")
        return tmp_path

    return write


HEADER = "user_id,stars,text,funny"


def test_stars_and_their_parts(write, untouched_randomness):
    task = tasks.make("yelp", root=write(HEADER, *rows()), num_features=64)
    assert [len(y) for _, y in (task.train, task.test, task.held_out)] == [70, 20, 10]
    assert (task.num_classes, task.model, task.input_shape) == (5, "softmax", (64,))
    assert task.test[1].bincount().tolist() == [4] * 5
    assert sorted(task.columns) == ["user_id"]
    assert task.column("user_id").shape == (70,)
    for stars in range(5):
        kinds = {tuple(row) for row in task.train[0][task.train[1] == stars].tolist()}
        assert len(kinds) == 1  # one text
    torch.testing.assert_close(task.train[0].norm(dim=1), torch.full((70,), 10.0))


def test_polarity_leaves_out_three_stars(write):
    task = tasks.make("yelp", root=write(HEADER, *rows()), label="polarity", num_features=64)
    assert task.num_classes == 2
    total = sum(len(y) for _, y in (task.train, task.test, task.held_out))
    assert total == 80
    assert task.test[1].bincount().tolist() == [8, 8]
    assert len({tuple(row) for row in task.train[0].tolist()}) == 4


def test_counts_by_hand(write):
    """Two kinds of reviews: "no", and "no no yes", of which half the training set is each."""
    lines = [f"{1 + 4 * (i % 2)},{('no', 'no no yes')[i % 2]}" for i in range(80)]
    root = write("stars,text", *lines)
    task = tasks.make("yelp", root=root, label="polarity", num_features=1 << 12)
    x, y = task.train
    signs = {gram: murmurhash3_32(gram) for gram in ("no", "yes", "no no", "no yes")}
    places = {gram: abs(number) % (1 << 12) for gram, number in signs.items()}
    assert len(set(places.values())) == 4
    n, half = len(y), int((y == 1).sum())
    rare = math.log((1 + n) / (1 + half)) + 1
    common = 1.0  # log(1) + 1: in every review
    raw = {
        "no": common * math.log1p(2),
        **{gram: rare * math.log1p(1) for gram in ("yes", "no no", "no yes")},
    }
    norm = math.sqrt(sum(value**2 for value in raw.values()))
    row = x[y == 1][0]
    for gram, value in raw.items():
        expected = 10 * value / norm * (1 if signs[gram] >= 0 else -1)
        assert row[places[gram]].item() == pytest.approx(expected, rel=1e-5)
    assert int((row != 0).sum()) == 4
    assert int((x[y == 0][0] != 0).sum()) == 1


def test_ids_by_hand(write):
    root = write("stars,text", *(f"{1 + i % 5},Ünder the a {'bridge ' * (i % 2)}" for i in range(100)))
    task = tasks.make("yelp", root=root, features="ids", num_words=3)
    assert (task.model, task.input_shape) == ("embedding_bag", (5,))

    def number(gram):
        return float(murmurhash3_32(gram, positive=True) % LARGEST_ID + 1)

    short = [number("ünder"), number("the"), number("ünder the"), 0, 0]
    words = ["ünder", "the", "bridge", "ünder the", "the bridge"]
    assert {tuple(row) for row in task.train[0].tolist()} == {
        tuple(short),
        tuple(map(number, words)),
    }
    assert tasks.make("yelp", root=root, features="ids", num_words=1).input_shape == (1,)


def test_a_review_without_words_has_no_features(write):
    lines = [f"{1 + i % 5},{('', 'a ! b', 'nice')[i % 3]}" for i in range(150)]
    for features in ("counts", "ids"):
        x = tasks.make("yelp", root=write("stars,text", *lines), features=features, num_features=16).train[0]
        assert {bool(row.any()) for row in x} == {True, False}
        assert x.isfinite().all()


def test_where_the_file_may_be(write, monkeypatch):
    root = write(HEADER, *rows())
    monkeypatch.delenv(tables.ROOT_VARIABLE, raising=False)
    made = tasks.make("yelp", root=root, num_features=16)
    assert tasks.make_from(f"yelp:path={root}/yelp/yelp.csv,num_features=16") is made
    monkeypatch.setenv(tables.ROOT_VARIABLE, str(root))
    assert tasks.make("yelp", num_features=16, num_words=5) is made
    os.utime(root / "yelp" / "yelp.csv", (1, 1))
    assert tasks.make("yelp", num_features=16) is not made


@pytest.mark.parametrize(
    ("lines", "parameters", "message"),
    [
        ([HEADER, *rows()], {"label": "star"}, "label must be one of 'stars', 'polarity', got 'star'"),
        ([HEADER, *rows()], {"features": "words"}, "features must be one of 'counts', 'ids', got 'words'"),
        ([HEADER, *rows()], {"num_features": 0}, "num_features must be .* got 0"),
        ([HEADER, *rows()], {"num_words": 0}, "num_words must be .* got 0"),
        (
            ["stars,review", "1,a"],
            {},
            r"must have the columns stars, text; it lacks text, got \['stars', 'review'\]",
        ),
        (["stars,text"], {}, "must have at least one row, got none"),
        (
            [HEADER, *rows(), "x,6,bad,0"],
            {},
            "column stars of .* must hold one of 1, 2, 3, 4, 5, got 6 in row 101",
        ),
        (["stars,text", "1,a", ",b"], {}, "column stars of .* got nan in row 2"),
        (["stars,text", "1,a", "five,b"], {}, "column stars of .* got 'five' in row 2"),
        (
            [HEADER, *rows(4)],
            {},
            r"too few rows for label='stars', \[1, 1, 1, 1, 0\] of the classes: a class has",
        ),
        (
            [HEADER, *rows(10)],
            {},
            r"\[2, 2, 2, 2, 2\] of the classes: with 10 samples of 5 classes, the share .* than 0.4",
        ),
        ([], {}, "cannot be read as a CSV file"),
    ],
)
def test_bad_input(write, lines, parameters, message):
    with pytest.raises(ValueError, match=message):
        tasks.make("yelp", root=write(*lines), **parameters)


def test_missing_files(tmp_path, monkeypatch):
    monkeypatch.delenv(tables.ROOT_VARIABLE, raising=False)
    with pytest.raises(
        ValueError, match=r"root must be the folder .* or path=\.\.\. to the task or set .*BYZGYM"
    ):
        tasks.make("yelp")
    with pytest.raises(FileNotFoundError, match=r"root \(which must hold yelp/yelp.csv\): there is no file"):
        tasks.make("yelp", root=tmp_path)
    with pytest.raises(FileNotFoundError, match=r"path: there is no file .*none\.csv'"):
        tasks.make("yelp", path=tmp_path / "none.csv")
    with pytest.raises(ValueError, match="path must be a string or a path, got 3"):
        tasks.make("yelp", path=3)


@pytest.mark.slow
@pytest.mark.skipif(not ROOT, reason=f"{tables.ROOT_VARIABLE} is not set")
def test_the_reviews_themselves():
    task = tasks.make("yelp")
    assert task.num_classes == 5
    assert len(task.test[1]) == 2000
