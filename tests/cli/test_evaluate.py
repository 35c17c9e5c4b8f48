import pytest

from byzgym import agents
from byzgym.aggregation import Decision, Policy

PLAY = ["evaluate", "--task", "synthetic", "--rounds", "5", "--episodes", "2"]


def test_a_rule_is_played(output):
    text = output(*PLAY, "--policy", "krum")
    assert "krum is told f = 3, the largest it accepts (needs n >= 2f + 3)" in text
    assert "accuracy: " in text
    assert output(*PLAY, "--policy", "krum") == text


@pytest.mark.parametrize("policy", ["median", "gaa", "uniform"])
def test_policies_with_and_without_credits(output, policy):
    assert "return: " in output(*PLAY, "--policy", policy)


def test_a_reference_is_called_one(output):
    assert "oracle is a reference: it sees more than a server would" in output(*PLAY, "--policy", "oracle")


def test_frames_are_shown(output):
    assert output(*PLAY, "--render", "ansi").count("worker  0") == 10


class CreditsAtFirst(Policy):
    """Gives credits in the first two rounds only."""

    def decide(self, view):
        update = view.gradients.mean(1)
        credits = view.previous_credits if view.round.max() < 2 else None
        return Decision(update, credits)


def test_a_policy_that_stops_giving_credits(mistake):
    agents.register("registered_by_a_test", CreditsAtFirst)
    assert "credits" in mistake(*PLAY, "--policy", "registered_by_a_test")
