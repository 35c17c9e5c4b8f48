import numpy as np
import pytest
import torch
from forensics_cases import played, roles, trusting

from byzgym import attacks
from byzgym.forensics import Trace, analyse, evaluate

HALF = np.arange(120) % 30 < 15


def test_hand_made_roles():
    truth = roles(120, w0=(0, 120), w2=(50, 120), w3=HALF, w4=(20, 60))
    found = analyse(trusting(truth))
    assert [str(verdict) for verdict in found.verdicts] == [
        "Byzantine",
        "honest",
        "sleeper, from round 50",
        "periodic, every 30 rounds",
        "intermittent, 33% of rounds",
        "honest",
    ]
    assert (found.flagged == truth).all()
    assert found.verdicts[2].changes == ((50, True),)
    assert found.verdicts[3].changes[:3] == ((15, False), (30, True), (45, False))
    assert found.verdicts[4].changes == ((20, True), (60, False))
    assert found.verdicts[0].changes == ()
    assert found.accused == [0, 2, 3, 4]
    assert found.summary == "4 of 6 workers accused: 0, 2, 3, 4"
    assert found.verdicts[0].suspicion == 1
    assert found.verdicts[4].accused == pytest.approx(1 / 3)


def test_rounds_are_named_as_the_trace_does():
    truth = roles(100, w2=(50, 100))
    found = analyse(trusting(truth, round=np.arange(1000, 1100)))
    assert found.verdicts[2].since == 1050
    assert found.verdicts[2].changes == ((1050, True),)


def test_changes_are_found_to_the_round_in_noise():
    random = np.random.default_rng(0)
    truth = roles(200, w1=(120, 200), w5=(60, 200))
    cosine = np.where(truth, -0.5, 0.5) + 0.15 * random.standard_normal(truth.shape)
    found = analyse(trusting(truth, cosine=cosine.clip(-1, 1)))
    assert [abs(found.verdicts[1].since - 120) <= 2, abs(found.verdicts[5].since - 60) <= 2] == [True, True]
    assert {verdict.pattern for verdict in found.verdicts} == {"honest", "sleeper"}


def test_equal_credits_accuse_nobody():
    found = analyse(Trace(credits=np.full((50, 8), 1 / 8)))
    assert found.threshold.nobody
    assert found.accused == []
    assert found.summary == "nobody is accused: the workers are of one kind"


@pytest.mark.parametrize("rounds", [1, 2, 5])
@pytest.mark.parametrize("workers", [1, 2, 10])
def test_short_runs_and_few_workers(rounds, workers):
    found = analyse(Trace(credits=np.full((rounds, workers), 1 / workers)))
    assert len(found.verdicts) == workers
    assert not found.accused


ROLES = ["static", "pretense:until=40", "randomized:period=25", "randomized:period=5", "fluctuating"]


@pytest.mark.parametrize("attack", ["sign_flip", "ipm"])
@pytest.mark.parametrize("assigned", ROLES)
def test_the_roles_that_an_oracle_shows(assigned, attack):
    """Its credits are right in every round, so all that is asked of the analysis is not to blur them."""
    log, truth = played("oracle", roles=assigned, attack=attack)
    found = analyse(log.trace())
    scores = evaluate(found, truth[0])
    assert scores.auc > 0.99
    assert scores.precision > 0.98
    assert scores.recall > 0.95


@pytest.mark.parametrize("f", [3, 7])
def test_gaa_shows_constant_attackers(f):
    log, truth = played("gaa", rounds=150, num_byzantine=f, attack="ipm")
    found = analyse(log.trace())
    assert found.accused == np.flatnonzero(truth[0, 0]).tolist()
    assert {verdict.pattern for verdict in found.verdicts} == {"honest", "byzantine"}
    assert found.groups == (tuple(found.accused),)


def test_gaa_shows_sleepers():
    log, truth = played("gaa", rounds=150, roles="pretense:until=60", attack="label_flip")
    found = analyse(log.trace())
    sleepers = [verdict for verdict in found.verdicts if verdict.pattern == "sleeper"]
    assert [verdict.worker for verdict in sleepers] == np.flatnonzero(truth[0, -1]).tolist()
    assert all(55 <= verdict.since <= 80 for verdict in sleepers)


@pytest.mark.parametrize("assigned", ["randomized:period=50", "fluctuating:period=50,high=4"])
def test_gaa_shows_changing_roles(assigned):
    log, truth = played("gaa", rounds=150, roles=assigned, attack="ipm", seed=1)
    scores = evaluate(analyse(log.trace()), truth[0])
    assert scores.auc > 0.85
    assert scores.precision > 0.9


@pytest.mark.parametrize("policy", ["gaa", "krum", "multi_krum", "median", "random", "uniform", "oracle"])
def test_nobody_is_accused_where_nobody_attacks(policy):
    log, _ = played(policy, num_envs=4, num_byzantine=0, rounds=100)
    for run in range(4):
        found = analyse(log.trace(run))
        assert found.accused == []
        assert found.groups == ()


@pytest.mark.parametrize("value", [np.nan, np.inf, 3e38])
def test_submissions_that_are_no_numbers_or_huge(value):
    attacks.register(
        "broken", lambda: lambda gradients, byzantine, context: torch.full_like(gradients, value)
    )
    log, truth = played("median", attack="broken")
    found = analyse(log.trace())
    assert found.accused == np.flatnonzero(truth[0, 0]).tolist()


@pytest.mark.parametrize(("attack", "f"), [("ipm", 3), ("alie", 3), ("ipm", 7), ("alie", 7)])
def test_copies_are_accused_although_they_deceive_the_policy(attack, f):
    log, truth = played("krum", attack=attack, num_byzantine=f)
    found = analyse(log.trace())
    assert found.accused == np.flatnonzero(truth[0, 0]).tolist()
    assert found.deceived
    assert found.summary.endswith("; the policy is deceived by copies")


def test_a_policy_that_is_not_deceived():
    log, _ = played("multi_krum", attack="gaussian")
    assert not analyse(log.trace()).deceived


def test_copied_credit_by_hand():
    credits = [[0.5, 0.25, 0.25], [0.2, 0, 0.2], [0, 0, 0], [np.nan] * 3]
    found = analyse(Trace(credits=credits, copy_of=[[0, 1, 0], [0, 0, 2], [0, 0, 0], [0, 0, 0]]))
    assert found.copied_credit == (0.75 + 0.5) / 2
    assert np.isnan(analyse(Trace(cosine=np.zeros((3, 2)))).copied_credit)
