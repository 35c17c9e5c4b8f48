import pytest

from byzgym import attacks
from byzgym.cli.listing import _traits


def test_everything_that_has_a_name(output):
    text = output("list")
    for name in ("digits", "lenet", "dirichlet", "sign_flip", "pretense", "bulyan", "gaa"):
        assert name in text


def test_pre_aggregators(output):
    text = " ".join(output("list", "pre-aggregators").split())
    assert "n >= 2f + 1; cost n d; needs f; keeps credits" in text
    assert "max_norm=2.0" in text


def test_one_kind(output):
    text = output("list", "models")
    assert "*widths" in text
    assert "digits" not in text
    assert "num_classes" not in text  # the environment fills that in


@pytest.mark.parametrize("kind", ["rules", "agents"])
def test_what_is_filled_in_is_not_listed(output, kind):
    text = output("list", kind)
    assert "num_byzantine" not in text
    assert "simulation" not in text.split()


def test_what_is_registered_is_described(output):
    class Mine(attacks.Zero):
        """Zero of `Somebody`,
        "Title" (https://example.org/paper).

        More.
        """

        def __init__(self, strength=1.0):
            pass

    attacks.register("[/attack]", Mine)
    text = output("list", "attacks")
    assert all(part in text for part in ("[/attack]", "strength=1.0", 'Zero of Somebody, "Title".'))


def test_rules_and_attacks_say_what_they_need(output):
    class Nosy(attacks.Zero):
        knowledge = frozenset({"rule", "qv", "qv_labels"})

    attacks.register("nosy", Nosy)
    text = " ".join(output("list").split())
    assert "n >= f + 1; cost n^2 d, and one gradient of the QV loss; needs a memory, QV samples" in text
    assert "https://arxiv.org/abs/1902.06156" in text
    assert "cost steps times n d; needs a memory" in text
    assert "knows the QV samples and the labels of the QV samples and the rule" in text
    assert "the attackers know all honest gradients, and with optimize=True the rule" in text
    assert "a worker needs to know its own data only" in text


def test_links_are_whole_at_any_width(output, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    text = "".join(output("list", "roles").split())
    assert "https://www.usenix.org/conference/usenixsecurity20/presentation/pan" in text
    assert "\u2026" not in text  # the ellipsis of what is cut off


@pytest.mark.parametrize(
    "name", [name for name in attacks.names() if attacks.registry.registry.is_built_in(name)]
)
def test_every_attack_says_what_it_knows(name):
    assert "know" in _traits("attacks", attacks.registry.registry.factory(name))
