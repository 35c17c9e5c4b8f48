import numpy as np
import pytest
from forensics_cases import roles, trusting
from sklearn.metrics import precision_score, recall_score, roc_auc_score

from byzgym.forensics import Trace, analyse, evaluate


def test_by_hand():
    # Workers 1 and 2 are accused in all rounds; 1 attacks always, 2 in the second half, 3 in the first.
    found = analyse(trusting(roles(40, w1=(0, 40), w2=(0, 40))))
    truth = roles(40, w1=(0, 40), w2=(20, 40), w3=(0, 20))
    scores = evaluate(found, truth)
    assert (scores.precision, scores.recall) == (0.75, 0.75)
    assert scores.precision_by_round.tolist() == [0.5] * 20 + [1.0] * 20
    assert scores.recall_by_round.tolist() == [0.5] * 20 + [1.0] * 20
    # In round 0, worker 3 ties with three honest ones and loses to worker 2: 4 + (3 / 2) of 8 pairs.
    assert scores.auc_by_round[[0, 39]].tolist() == [(3 + 0.5 + 0.5 * 3) / 8, 1.0]


def test_as_scikit_learn():
    random = np.random.default_rng(0)
    found = analyse(Trace(credits=random.dirichlet([0.3] * 8, 60)))
    truth = random.uniform(size=(60, 8)) < 0.4
    scores = evaluate(found, truth)
    assert scores.auc == pytest.approx(roc_auc_score(truth.ravel(), found.scores.ravel()))
    accused = analyse(trusting(truth))
    noise = truth ^ (random.uniform(size=(60, 8)) < 0.1)
    scores = evaluate(accused, noise)
    assert scores.precision == pytest.approx(precision_score(noise.ravel(), accused.flagged.ravel()))
    assert scores.recall == pytest.approx(recall_score(noise.ravel(), accused.flagged.ravel()))


def test_what_is_not_defined():
    quiet = analyse(Trace(credits=np.full((5, 4), 0.25)))
    nobody = evaluate(quiet, np.zeros(4, dtype=bool))
    assert np.isnan([nobody.auc, nobody.precision, nobody.recall]).all()
    missed = evaluate(quiet, np.array([True, False, False, False]))
    assert (missed.auc, missed.recall) == (0.5, 0)
    assert np.isnan(missed.precision)


def test_mistakes():
    with pytest.raises(ValueError, match=r"byzantine must have shape \[5, 4\] or \[4\], got \[4, 5\]"):
        evaluate(analyse(Trace(credits=np.ones((5, 4)))), np.zeros((4, 5)))
