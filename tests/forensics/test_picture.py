import matplotlib
import numpy as np
import pytest
from forensics_cases import roles, trusting
from PIL import Image

from byzgym.forensics import Trace, analyse, draw
from byzgym.forensics.picture import _figure

TRUTH = roles(80, w0=(0, 80), w2=(30, 80), w3=np.arange(80) % 20 < 10)


@pytest.fixture
def found():
    copies = np.tile(np.arange(6), (80, 1))
    copies[30:, 2] = 0
    return analyse(trusting(TRUTH, copy_of=copies))


def texts(figure):
    (axes,) = (axes for axes in figure.axes if axes.get_yticklabels() and axes.texts)
    return [text.get_text() for text in axes.texts], [tick.get_text() for tick in axes.get_yticklabels()]


def test_verdicts_groups_and_flags_are_shown(found):
    figure = _figure(found, "my run", TRUTH)
    verdicts, names = texts(figure)
    assert verdicts == [str(verdict) for verdict in found.verdicts]
    assert names == ["A  0", "1", "A  2", "3", "4", "5"]
    axes = figure.axes[0]
    assert axes.get_title(loc="left") == "my run\n3 of 6 workers accused: 0, 2, 3"
    (image,) = axes.images
    assert (np.asarray(image.get_array()) == found.scores.T).all()
    legend = [text.get_text() for text in axes.get_legend().get_texts()]
    assert legend == ["accused", "role changes", "truth: Byzantine", "A: copy each other"]


def test_nobody_and_no_truth():
    figure = _figure(analyse(Trace(credits=np.full((20, 5), 0.2))), "", None)
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == ["accused"]


@pytest.mark.parametrize("workers", [1, 10, 50, 200])
def test_any_number_of_workers(tmp_path, workers):
    found = analyse(Trace(credits=np.full((30, workers), 1 / workers)))
    path = draw(found, tmp_path / "a.png", "$\\frac$ is no formula")
    width, height = Image.open(path).size
    assert 1000 < width < 2500
    assert 150 < height < 8000


def test_the_users_style_changes_nothing(found, tmp_path):
    plain = draw(found, tmp_path / "a.png").read_bytes()
    with matplotlib.rc_context({"text.usetex": True, "font.family": "no such font"}):
        assert draw(found, tmp_path / "b.png").read_bytes() == plain


def test_mistakes(found, tmp_path):
    with pytest.raises(ValueError, match=r"byzantine must have shape \[80, 6\], got \[6\]"):
        draw(found, tmp_path / "a.png", byzantine=TRUTH[0])
    with pytest.raises(ValueError, match="not supported"):
        draw(found, tmp_path / "a.nothing")
    assert not list(tmp_path.iterdir())
