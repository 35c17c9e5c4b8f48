"""What attacks are told of the round, and that nothing else of theirs or of an agent's is kept."""

import pytest
import torch
from simulation_cases import make, uniform_update

from byzgym import aggregation, attacks


def recorder(base, knows, seen):
    """An attack that changes nothing and notes what it is told."""

    class Recorder(base):
        knowledge = frozenset(knows)

        def corrupt(self, gradients, byzantine, context):
            seen.append((context, byzantine.clone()))
            return gradients

    if base is object:
        Recorder.__call__ = Recorder.corrupt
    return Recorder


@pytest.mark.parametrize("base", [object, attacks.Attack])
def test_what_an_attack_is_told_concerns_its_own_environments(base):
    seen = []
    attacks.register("test_recorder", recorder(base, {"qv"}, seen))
    simulation = make(
        4,
        attack="zero",
        learning_rate={"initial": 1.0, "schedule": "linear"},
        momentum=0.5,
        per_environment=[{}, {"attack": "test_recorder"}, {}, {"attack": "test_recorder"}],
    )
    for envs in ([1, 2], [0, 3], [3]):
        simulation.apply(1e-3 * uniform_update(simulation), envs=envs)
    simulation.apply(1e-3 * uniform_update(simulation))
    (context, byzantine), view, mine = seen[-1], simulation.view, [1, 3]
    assert context.round.tolist() == view.round[mine].tolist() == [2, 3]
    assert torch.equal(context.learning_rate, view.learning_rate[mine])
    assert torch.equal(context.previous_update, view.previous_update[mine])
    assert torch.equal(context.qv[0], simulation.quasi_validation.x[mine])
    assert torch.equal(context.qv[1], simulation.quasi_validation.y[mine])
    assert len(context.generators) == 2
    assert context.generators[0] is simulation.workers.generators[1]
    assert context.generators[1] is simulation.workers.generators[3]
    assert torch.equal(byzantine, simulation.byzantine[mine])
    assert context.rule is None
    assert context.num_classes == 3


@pytest.mark.parametrize("base", [object, attacks.Attack])
@pytest.mark.parametrize("knows", [(), ("rule",), ("qv",), ("rule", "qv")])
def test_attacks_see_the_servers_knowledge_only_if_they_declare_it(base, knows):
    seen = []
    attacks.register("test_recorder", recorder(base, knows, seen))
    simulation = make(attack="test_recorder")
    simulation.rule = aggregation.make("median")
    simulation.apply(uniform_update(simulation))
    context, _ = seen[-1]
    assert context.rule is (simulation.rule if "rule" in knows else None)
    if "qv" in knows:
        assert torch.equal(context.qv[0], simulation.quasi_validation.x)
        assert torch.equal(context.qv[1], simulation.quasi_validation.y)
    else:
        assert context.qv is None


def test_a_function_as_attack_cannot_write_into_the_servers_state():
    def vandal(gradients, byzantine, context):
        for tensor in (context.round, context.previous_update, context.learning_rate):
            tensor.fill_(7)
        return gradients

    attacks.register("test_vandal", lambda: vandal)
    simulation, reference = make(attack="test_vandal"), make(attack="none")
    for _ in range(3):
        assert torch.equal(simulation.view.round, reference.view.round)
        assert torch.equal(simulation.view.previous_update, reference.view.previous_update)
        assert torch.equal(simulation.gradients, reference.gradients)
        for one in (simulation, reference):
            one.apply(uniform_update(one))


@pytest.mark.parametrize("scope", ["workers", "transmission"])
def test_a_graph_that_an_attack_builds_is_not_kept(scope):
    class Learned:
        def __init__(self):
            self.scope = scope
            self.factor = torch.full((), -2.0, requires_grad=True)

        def __call__(self, gradients, byzantine, context):
            return self.factor * gradients

    attacks.register("test_learned", Learned)
    simulation = make(attack="test_learned", worker_momentum=0.5)
    for _ in range(2):
        workers, view = simulation.workers, simulation.view
        for tensor in (workers.submissions, workers.momentum, view.gradients, view.theta, view.qv_gradient):
            assert not tensor.requires_grad
        simulation.apply(uniform_update(simulation))
    simulation.snapshot()  # fails where there is a graph


def test_a_graph_that_an_agent_builds_is_not_kept():
    simulation = make()
    update = uniform_update(simulation).clone().requires_grad_() * 1.0
    credits = torch.full((2, 6), 1 / 6, requires_grad=True) * 1.0
    simulation.apply(update, credits)
    view = simulation.view
    for tensor in (view.theta, view.previous_update, view.previous_credits):
        assert not tensor.requires_grad
