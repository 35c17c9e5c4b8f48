"""Claims of rules, and what refutes them."""

import math

import pytest
import torch

from byzgym import aggregation
from byzgym.aggregation import Weighting
from byzgym.properties import PROPERTIES, measure

NAMES = list(PROPERTIES)


def found(rule, **arguments):
    return {finding.name: finding for finding in measure(rule, **{"draws": 6, "dimension": 12, **arguments})}


def check(rule, **arguments):
    for finding in found(rule, **arguments).values():
        assert not finding.refuted, finding


@pytest.mark.parametrize("num_workers", [3, 4, 11])
@pytest.mark.parametrize("name", aggregation.names())
def test_no_claim_of_a_built_in_rule_is_refuted(name, num_workers):
    if aggregation.make(name, num_byzantine=0).max_byzantine(num_workers) < 0:
        pytest.skip("it accepts no f for so few")
    check(name, num_workers=num_workers, draws=4 if name == "auto_gm" else 6)


@pytest.mark.slow
@pytest.mark.parametrize(("num_workers", "dimension"), [(5, 40), (10, 2), (20, 7), (35, 9)])
def test_nor_with_more_workers(num_workers, dimension):
    for name in aggregation.names():
        check(name, num_workers=num_workers, dimension=dimension, draws=2, seed=num_workers)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["krum", "medoid", "median", "trimmed_mean", "geometric_median", "fltrust"])
def test_nor_with_a_hundred_workers(name):
    check(name, num_workers=100, dimension=6, draws=2)


@pytest.mark.parametrize("rule", ["mean", "trimmed_mean", "zeno"])
@pytest.mark.parametrize("name", aggregation.pre.names())
def test_nor_behind_pre_aggregators(name, rule):
    check(f"{name}+{rule}", num_workers=12)


@pytest.mark.parametrize(
    ("rule", "claims"),
    [
        ("nnm+krum", NAMES[:5]),
        ("arc+krum", ["permutation", "scale", "breakdown"]),
        ("arc+mean", ["permutation", "scale", "breakdown"]),  # the f longest are shortened
        ("static_clipping+mean", ["permutation", "breakdown", "dimensional"]),
        ("normalize+krum", ["permutation", "breakdown", "dimensional"]),
        ("static_clipping+foolsgold", ["permutation"]),  # which claims nothing that bounds it
        ("bucketing+median", ["translation", "scale", "breakdown", "dimensional"]),
        ("nnm+median", ["permutation", "translation", "scale", "breakdown"]),
        ("secure_groups+mean", ["translation", "scale", "hull"]),
        ("nnm+arc+mean", ["permutation", "scale", "breakdown"]),
    ],
)
def test_what_a_composition_claims(rule, claims):
    assert aggregation.make(rule, num_byzantine=1).claims == set(claims)
    check(rule, num_workers=9)


def test_attributes_agree_with_claims():
    for name in aggregation.names():
        rule = aggregation.make(name, num_byzantine=0)
        assert rule.symmetric == ("permutation" in rule.claims), name
        assert not rule.linear or rule.claims >= {"hull"} or name in ("bant", "foolsgold", "trust"), name
    exponential = {
        name for name in aggregation.names() if aggregation.make(name, num_byzantine=0).exponential
    }
    assert exponential == {"brute_force", "smea"}


def test_what_is_known_of_the_mean():
    findings = found("mean", num_workers=9)
    assert list(findings) == NAMES
    held = {name for name, finding in findings.items() if finding.holds}
    assert (
        held == {"permutation", "translation", "scale", "hull"} == {n for n in NAMES if findings[n].claimed}
    )
    assert findings["breakdown"].broken_by == 1
    assert findings["breakdown"].worst > 1e9


def test_what_is_known_of_the_median():
    findings = found("median", num_workers=9)
    assert not findings["hull"].holds  # of unit vectors it is zero; the nearest point of the hull is 1 / n
    assert findings["hull"].worst == pytest.approx(1 / math.sqrt(9 + 1), rel=1e-6)
    assert findings["breakdown"].holds
    assert findings["breakdown"].broken_by == 5
    assert findings["dimensional"].holds
    assert not found("krum", num_workers=9)["dimensional"].holds


def test_a_rule_breaks_at_its_f_and_not_before():
    assert found("trimmed_mean", num_workers=9)["breakdown"].broken_by == 5
    assert found("trimmed_mean:num_byzantine=2", num_workers=9)["breakdown"].broken_by == 3
    assert found("geometric_median", num_workers=9)["breakdown"].broken_by == 5
    assert found("norm_clipping", num_workers=9)["breakdown"].broken_by is None


def test_of_few_workers_nothing_can_be_said_of_attacks():
    findings = found("krum", num_workers=3)
    assert findings["breakdown"].holds is findings["dimensional"].holds is None


def test_ties_refute_nothing():
    tied = found("krum", num_workers=3)["permutation"]  # the two that are nearest to each other tie
    assert (tied.claimed, tied.holds, tied.refuted) == (True, None, False)
    assert tied.worst > 0.01
    assert found("mean", num_workers=3)["permutation"].holds
    assert found("medoid", num_workers=4, dimension=1)["permutation"].holds is None  # the middle two tie
    assert found("monna", num_workers=4)["permutation"].holds is False


def claiming(function, *claims):
    function.claims = frozenset(claims)
    return function


class Largest(Weighting):
    claims = frozenset({"hull", "breakdown"})

    def _credits(self, gradients):
        norms = gradients.norm(dim=-1)
        return torch.nn.functional.one_hot(norms.argmax(-1), norms.shape[-1]).to(gradients.dtype)


def krum_and_last(rows):
    """Is broken by the last worker alone."""
    return aggregation.make("krum", num_byzantine=2)(rows) + rows[..., -1, :] / 100


class LyingMean(aggregation.Mean):
    claims = aggregation.Mean.claims | {"breakdown"}


class Trusting(aggregation.ServerRule):
    """Follows whoever lowers the server's loss most, and says that nobody can lead it astray."""

    needs = frozenset({"qv"})
    claims = frozenset({"breakdown", "scale"})

    def _decide(self, view):
        return aggregation.make("fedgreed").decide(view)


class Clipping(aggregation.ServerRule):
    """Is right in the first round, when nothing has been submitted before."""

    needs = frozenset({"memory"})
    claims = frozenset({"breakdown"})

    def _decide(self, view):
        last = view.memory.read("last", view.theta.shape[1])
        view.memory.write("last", view.gradients.mean(1).float())
        return aggregation.Decision(last.to(view.gradients))


@pytest.mark.parametrize(
    ("rule", "refuted"),
    [(LyingMean, ["breakdown"]), (Trusting, ["scale", "breakdown"]), (Clipping, ["breakdown"])],
)
def test_classes_of_ones_own(rule, refuted):
    aggregation.register("mine", rule)
    assert [name for name, finding in found("mine", num_workers=8).items() if finding.refuted] == refuted


@pytest.mark.parametrize(
    ("rule", "refuted"),
    [
        (Largest(num_byzantine=2), ["breakdown"]),
        (claiming(lambda rows: rows.mean(-2), *NAMES), ["breakdown", "dimensional"]),
        (claiming(lambda rows: rows[..., 0, :] + 0, *NAMES[:4]), ["permutation"]),
        (claiming(lambda rows: rows.square().mean(-2), *NAMES[:4]), ["translation", "scale", "hull"]),
        (claiming(lambda rows: 2 * rows.median(-2).values, *NAMES[:4]), ["translation", "hull"]),
        (claiming(lambda rows: rows.sum(-2), "scale"), []),
        (claiming(lambda rows: rows.median(-2).values, "breakdown", "dimensional"), []),
        (claiming(krum_and_last, "breakdown"), ["breakdown"]),
        (claiming(lambda rows: rows.mean(-2) / 0, *NAMES[:4]), NAMES[:4]),
    ],
)
def test_rules_of_ones_own(rule, refuted):
    aggregation.register("mine", lambda: rule)
    findings = found("mine", num_workers=8)
    assert [name for name in NAMES if findings[name].refuted] == refuted
    assert all(findings[name].claimed == (name in rule.claims) for name in NAMES)


def test_bad_arguments():
    for arguments, message in (
        ({"num_workers": 0}, "num_workers must be an integer of at least 1"),
        ({"draws": 0}, "draws must be an integer of at least 1"),
        ({"dimension": True}, "dimension must be an integer of at least 1"),
        ({"rule": "krumm"}, "did you mean 'krum'"),
        (
            {"rule": claiming(lambda rows: rows.mean(-2), "hul")},
            r"claims of .* must be one of 'permutation', .*'hul'",
        ),
        ({"rule": "bulyan", "num_workers": 2}, r"needs n >= 4f \+ 3"),
    ):
        with pytest.raises(ValueError, match=message):
            measure(**{"rule": "mean", **arguments})
