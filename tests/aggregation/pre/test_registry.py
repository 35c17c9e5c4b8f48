"""Names: pre-aggregators, and rules behind them, in every place that takes the name of a policy."""

import pytest
import torch

from byzgym import agents, aggregation
from byzgym.aggregation import pre
from byzgym.aggregation.registry import label, parse, split
from byzgym.experiments import Comparison, compare
from byzgym.simulation import Simulation
from byzgym.testing import CheckError, check_pre_aggregator, check_rule

ROWS = torch.arange(22.0).view(11, 2) ** 1.5
TINY = {"task": "synthetic", "num_workers": 11, "num_byzantine": 1, "batch_size": 4}
SPELLINGS = [
    ("krum", {"name": "krum"}),
    ("nnm+krum", {"name": "krum", "pre": ["nnm"]}),
    (
        "nnm+bucketing:size=2+krum:num_byzantine=1",
        {"name": "krum", "num_byzantine": 1, "pre": ["nnm", {"name": "bucketing", "size": 2}]},
    ),
    (
        "static_clipping:max_norm=1e+3+norm_clipping:max_norm=2e+3",
        {"name": "norm_clipping", "max_norm": 2e3, "pre": [{"name": "static_clipping", "max_norm": 1e3}]},
    ),
    (" arc + median", {"name": "median", "pre": ["arc"]}),
    ("ensemble:members=nnm+krum+gaa", {"name": "ensemble", "members": "nnm+krum+gaa"}),
    ("model:runs/a+b/model.zip", {"name": "model", "": "runs/a+b/model.zip"}),
]


@pytest.mark.parametrize(("text", "spec"), SPELLINGS)
def test_spellings(text, spec):
    assert parse(text) == spec
    assert parse(label(spec)) == spec


def test_one_label():
    spec = {"name": "krum", "pre": [{"name": "bucketing", "size": 2}, "nnm", "static_clipping: max_norm=1e0"]}
    assert label(spec) == "bucketing:size=2+nnm+static_clipping:max_norm=1.0+krum"
    assert label({"name": "krum", "pre": []}) == "krum"


def test_members_are_split_where_a_rule_ends():
    assert split("krum+gaa") == ["krum", "gaa"]
    assert split("nnm+krum+multi_krum:num_selected=3+bucketing:size=2+nnm+median") == [
        *("nnm+krum", "multi_krum:num_selected=3", "bucketing:size=2+nnm+median")
    ]
    assert split("norm_clipping:max_norm=1e+3+gaa") == ["norm_clipping:max_norm=1e+3", "gaa"]
    assert split("krum+nnm") == ["krum", "nnm"]  # of which no policy can be made


@pytest.mark.parametrize(
    "made",
    [
        lambda: aggregation.make("nnm+krum", num_byzantine=2),
        lambda: aggregation.make("krum", num_byzantine=2, pre=["nnm"]),
        lambda: aggregation.make_from("nnm+krum:num_byzantine=2"),
        lambda: aggregation.make_from({"name": "krum", "pre": ["nnm"], "num_byzantine": 2}),
        lambda: aggregation.make_for("nnm+krum", 11, 2),
        lambda: pre.compose(["nnm"], aggregation.make("krum", num_byzantine=2)),
        lambda: pre.compose([pre.NNM(2)], aggregation.make("krum", num_byzantine=2)),
    ],
)
def test_every_way_to_the_same_rule(made):
    assert repr(made()) == "NNM(num_byzantine=2) + Krum(num_byzantine=2)"


def test_agents_and_environments_take_them():
    simulation = Simulation.make(2, 0, **TINY, attack="ipm")
    expected = aggregation.make_for("nnm+krum", 11, 1).decide(simulation.view)
    for spec in ("nnm+krum", {"name": "krum", "pre": ["nnm"]}, {"name": "nnm+krum"}):
        agent = agents.build(spec, simulation)
        assert torch.equal(agent.decide(simulation.view).credits, expected.credits)
    assert repr(agents.make("nnm+krum")) == repr(agents.make("krum", pre=["nnm"])) == "nnm+krum"
    ensemble = agents.build("ensemble:members=nnm+krum+median", simulation)
    assert [repr(member.policy) for member in ensemble.members] == [
        *("NNM(num_byzantine=1) + Krum(num_byzantine=1)", "Median(num_byzantine=1)")
    ]
    simulation.apply(ensemble.decide(simulation.view))
    with pytest.raises(ValueError, match="pre-aggregators stand in front of rules, and 'gaa' is an agent"):
        agents.make("nnm+gaa")


def test_an_environment_takes_them_as_rules():
    import gymnasium as gym

    env = gym.make("ByzantineAggregation-v0", **TINY, action="rule", rules=["nnm+krum", "bucketing+median"])
    env.reset(seed=0)
    for number, linear in ((0, True), (1, False)):
        assert ("credits" in env.step(number)[4]) == linear


def test_a_comparison_lists_them(tmp_path):
    behind = {"name": "median", "pre": ["bucketing: size=2"]}
    policies = ["nnm+krum", behind, "nnm+multi_krum: num_selected=2"]
    labels = ("nnm+krum", "bucketing:size=2+median", "nnm+multi_krum:num_selected=2")
    comparison = Comparison(policies=policies, attacks="ipm", **TINY, rounds=2, seeds=1)
    assert comparison.policies == labels
    results = compare(comparison, tmp_path)
    assert results.runs["policy"].tolist() == list(labels)
    assert not results.told
    four = {**TINY, "num_byzantine": 4, "rounds": 1, "seeds": 1}
    (entry,) = compare(Comparison(**four, policies="bucketing+krum", attacks="ipm"), tmp_path / "more").told
    assert (entry.told, entry.condition) == (1, "n >= 2f + 3 behind Bucketing(size=2, seed=0)")


def test_mistakes_are_named():
    for spec, error, message in (
        ("nmm+krum", ValueError, "unknown pre-aggregator 'nmm'; did you mean 'nnm'"),
        ({"name": "krum", "pre": ["nmm"]}, ValueError, "unknown pre-aggregator 'nmm'; did you mean 'nnm'"),
        ("nnm+krumm", ValueError, "unknown rule 'krumm'; did you mean 'krum'"),
        ("nnm", ValueError, "'nnm' is a pre-aggregator"),
        ("krum+nnm", ValueError, "'krum' in 'krum.nnm' is a rule"),
        ("bucketing:sizes=2+krum", TypeError, "sizes"),
        ("bucketing:size=0+krum", ValueError, "size must be an integer of at least 1"),
        ({"name": "krum", "pre": "nnm"}, TypeError, "pre must be a list of pre-aggregators, got 'nnm'"),
        ({"name": "nnm+krum", "pre": ["arc"]}, ValueError, "pre is given twice"),
        ("nnm+krum:num_byzantine=-1", ValueError, "num_byzantine must be an integer of at least 0"),
    ):
        for make in (aggregation.make_from, lambda spec: aggregation.make_for(spec, 11, 1), agents.make_from):
            with pytest.raises(error, match=message.replace("rule", "(rule|agent)")):
                make(spec)
    with pytest.warns(UserWarning, match=r"rule nnm\+mean is not told num_byzantine and assumes 0"):
        aggregation.make("nnm+mean")


class Halves(pre.Scaling):
    def _factors(self, gradients):
        return torch.full(gradients.shape[:-1], 0.5, dtype=torch.float64)


class FirstTwo(pre.Mixing):
    symmetric = False

    def num_rows(self, num_workers):
        return min(2, num_workers)

    def _matrix(self, gradients):
        count = self.num_rows(gradients.shape[1])
        return torch.eye(gradients.shape[1], dtype=torch.float64)[:count].expand(len(gradients), -1, -1)


def test_pre_aggregators_of_ones_own():
    pre.register("halves", Halves)
    pre.register("first_two", FirstTwo)
    pre.register("rounded", lambda digits=0: lambda gradients: gradients.round(decimals=digits))
    for name in ("halves", "first_two", "rounded:digits=2"):
        check_pre_aggregator(name)
        check_rule(f"{name}+mean")
    torch.testing.assert_close(aggregation.make("halves+mean")(ROWS), ROWS.mean(0) / 2)
    torch.testing.assert_close(aggregation.make("first_two+mean")(ROWS), ROWS[:2].mean(0))
    torch.testing.assert_close(aggregation.make("halves+rounded+mean")(ROWS), (ROWS / 2).round().mean(0))
    with pytest.raises(ValueError, match="built in"):
        pre.register("nnm", Halves)
    with pytest.raises(ValueError, match="without"):
        aggregation.register("my+rule", lambda: lambda rows: rows.sum(-2))


@pytest.mark.parametrize("other", [aggregation, agents])
def test_a_pre_aggregator_shares_its_name_with_no_rule_and_no_agent(other):
    kind = {aggregation: "rule", agents: "agent"}[other]
    pre.register("mine", Halves)
    for name in ("mine", "nnm"):
        with pytest.raises(
            ValueError, match=f"{kind} '{name}' must not have the name of a .* pre-aggregator"
        ):
            other.register(name, lambda: lambda gradients: gradients.mean(-2))
    assert repr(aggregation.make("mine+mean", num_byzantine=0)).startswith("Halves")
    other.register("yours", lambda: lambda gradients: gradients.mean(-2))
    for name in ("yours", "krum" if other is aggregation else "gaa"):
        with pytest.raises(
            ValueError, match=f"pre-aggregator '{name}' must not have the .* registered {kind}"
        ):
            pre.register(name, Halves)


@pytest.mark.parametrize("name", pre.names())
def test_the_built_in_ones_pass_the_checks(name):
    check_pre_aggregator(name)


def scale_in_place(rows):
    return rows.mul_(2)


def keep_first(rows):
    return rows[..., :1, :].expand_as(rows).clone()


class Doubling(pre.Scaling):
    def _factors(self, gradients):
        return torch.full(gradients.shape[:-1], 2.0, dtype=torch.float64)


@pytest.mark.parametrize(
    ("broken", "problem"),
    [
        (scale_in_place, "writes into its input"),
        (lambda rows: rows.double(), "the type of the submissions"),
        (lambda rows: rows[..., :3, :], "must have shape"),
        (keep_first, "depends on the order of the workers"),
        (Doubling(), "weights must sum to at most 1"),
        (lambda rows: rows / 0, "the result of finite submissions must be finite: it returned infinity"),
        (lambda rows: rows * torch.nan, "must be finite: it returned NaN"),
    ],
)
def test_broken_ones_are_told_what_is_wrong(broken, problem):
    with pytest.raises(CheckError, match=problem):
        check_pre_aggregator(broken)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("nnm+", r"a rule is missing behind 'nnm\+'"),
        ("krum+nnm", r"'krum' in 'krum\+nnm' is a rule, which stands last; in front can stand: arc, "),
        ("nnm:num_byzantine=1+mean", r"are told the rule's num_byzantine, got "),
        (
            {"name": "mean", "pre": [{"name": "nnm", "num_byzantine": 1}]},
            r"are told the rule's num_byzantine",
        ),
    ],
)
def test_what_cannot_stand_together_is_said(spec, message):
    with pytest.raises(ValueError, match=message):
        aggregation.make_from(spec)


def test_a_composition_can_stand_inside_a_rule():
    rows = torch.randn(11, 4, generator=torch.Generator().manual_seed(0))
    for rule in ("foundation", "gas"):
        made = aggregation.make(rule, num_byzantine=2, rule="nnm+median")
        assert made(rows).isfinite().all()
