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


@pytest.mark.parametrize("num_workers", [4, 7, 12])
@pytest.mark.parametrize("name", aggregation.names())
def test_no_claim_of_a_built_in_rule_is_refuted(name, num_workers):
    if aggregation.make(name, num_byzantine=0).max_byzantine(num_workers) < 0:
        pytest.skip("it accepts no f for so few")
    for finding in found(name, num_workers=num_workers).values():
        assert finding.holds is not False or not finding.claimed, finding


@pytest.mark.parametrize(
    "name", ["nnm+krum", "bucketing+geometric_median", "arc+median", "secure_groups+mean"]
)
def test_nor_behind_pre_aggregators(name):
    for finding in found(name, num_workers=12).values():
        assert finding.holds is not False or not finding.claimed, finding


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


def claiming(function, *claims):
    function.claims = frozenset(claims)
    return function


class Largest(Weighting):
    claims = frozenset({"hull", "breakdown"})

    def _credits(self, gradients):
        norms = gradients.norm(dim=-1)
        return torch.nn.functional.one_hot(norms.argmax(-1), norms.shape[-1]).to(gradients.dtype)


@pytest.mark.parametrize(
    ("rule", "refuted"),
    [
        (Largest(num_byzantine=2), ["breakdown"]),
        (claiming(lambda rows: rows[..., 0, :] + 0, *NAMES[:4]), ["permutation"]),
        (claiming(lambda rows: rows.square().mean(-2), *NAMES[:4]), ["translation", "scale", "hull"]),
        (claiming(lambda rows: 2 * rows.median(-2).values, *NAMES[:4]), ["translation", "hull"]),
        (claiming(lambda rows: rows.sum(-2), "scale"), []),
        (claiming(lambda rows: rows.mean(-2) / 0, *NAMES[:4]), NAMES[:4]),
    ],
)
def test_rules_of_ones_own(rule, refuted):
    aggregation.register("mine", lambda: rule)
    findings = found("mine", num_workers=8)
    assert [n for n in NAMES if findings[n].claimed and findings[n].holds is False] == refuted


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
