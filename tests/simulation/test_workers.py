"""What workers submit, and what attacks and role functions can see and change."""

from collections import Counter

import pytest
import torch
from simulation_cases import make, play
from torch import nn
from torch.nn import functional as F

from byzgym import aggregation, attacks, specs, tasks
from byzgym.simulation import Simulation

OVERRIDES = [{"attack": "test_mine"}, {}, {"attack": "test_mine"}]
BOTH_SIZES = pytest.mark.parametrize("model", ["mlp:8", "mlp:1500"])  # rows below and above LONG_ROW


def gradients_by_loop(simulation, x, y):
    task = simulation.setup.task
    module = tasks.models.build(simulation.setup.model, task.input_shape, task.num_classes, torch.Generator())
    rows = torch.empty_like(simulation.gradients)
    for e, i in torch.cartesian_prod(*map(torch.arange, rows.shape[:2])).tolist():
        nn.utils.vector_to_parameters(simulation.view.theta[e].clone(), module.parameters())
        module.zero_grad()
        F.cross_entropy(module(x[e, i]), y[e, i]).backward()
        rows[e, i] = torch.cat([p.grad.flatten() for p in module.parameters()])
    return rows


def test_momentum_averages_honest_gradients():
    plain, smooth = (make(attack="none", learning_rate=1e-30, worker_momentum=beta) for beta in (0.0, 0.75))
    expected = torch.zeros_like(plain.gradients)
    for _ in range(4):
        expected = 0.75 * expected + 0.25 * plain.gradients
        torch.testing.assert_close(smooth.gradients, expected)
        play(plain, smooth)


@pytest.mark.parametrize("attack", ["label_flip", "leaked_qv", "gaussian", "ipm", "gambler:factor=1"])
@BOTH_SIZES
def test_weight_decay_is_in_every_gradient_and_in_no_attack_without_one(attack, model):
    settings = {"attack": attack, "num_byzantine": 2, "model": model}
    plain, decayed = make(**settings), make(**settings, weight_decay=0.5)
    shift = (0.5 * plain.view.theta)[:, None].expand_as(plain.gradients).clone()
    if attack == "gaussian":
        shift[plain.byzantine] = 0
    if attack == "ipm":
        shift[plain.byzantine] *= -0.5  # -epsilon times the mean of honest gradients
    torch.testing.assert_close(decayed.gradients, plain.gradients + shift)
    if attack.startswith("gambler"):
        torch.testing.assert_close(decayed.sent_mean, plain.sent_mean + shift[:, 0])


def test_momentum_begins_anew_after_an_overflow():
    simulation = make(attack="none", worker_momentum=0.75, learning_rate=1.0, model="mlp:16,16")
    huge = 1e15 * torch.randn(simulation.view.theta.shape, generator=torch.Generator().manual_seed(0))
    huge[1] = 0
    simulation.apply(huge)
    assert simulation.view.rejected.all(1).tolist() == [True, False]
    simulation.apply(-huge)
    assert not simulation.view.rejected.any()
    assert simulation.workers.momentum[1].equal(simulation.gradients[1])
    plain = make(attack="none", learning_rate=1.0, model="mlp:16,16")
    plain.apply(torch.zeros_like(huge))
    plain.apply(plain.view.theta - simulation.view.theta)  # the third round, where the other is
    torch.testing.assert_close(simulation.gradients[0], 0.25 * plain.gradients[0], rtol=1e-3, atol=1e-6)


def columns(rows):
    return (torch.arange(rows.shape[-1], dtype=torch.float64) / 7).expand_as(rows)


def made(base=attacks.Attack, **members):
    return type("Mine", (base,), members)


def noise(base=attacks.Noise, **members):
    return made(base, draw=lambda self, rows, generator: rows.copy_(columns(rows)), **members)


def greedy(gradients, byzantine, context):
    submitted = -2 * gradients
    for tensor in (gradients, byzantine, context.round, context.previous_update, context.learning_rate):
        tensor.fill_(True)
    return submitted


GAMBLER = "gambler:probability=1.0,factor=-2.0,num_servers=1,victims=all"
FORMS = {  # a factory; how much of the honest rows and of `columns` it sends
    "function": (lambda: greedy, -2, 0),
    "one_row": (made(corrupt=lambda self, rows, *_: columns(rows)[:, :1], reads_own=False), 0, 1),
    "graph": (made(corrupt=lambda self, rows, *_: torch.ones((), requires_grad=True) * -rows), -1, 0),
    "call": (made(__call__=lambda self, rows, *_: -2 * rows), -2, 0),
    "noise": (noise(), 0, 1),
    "noise_corrupt": (noise(made(attacks.Noise, corrupt=lambda *_: -attacks.Noise.corrupt(*_))), 0, -1),
    "noise_call": (noise(made(attacks.Noise, __call__=lambda *_: 2 * attacks.Noise.__call__(*_))), 0, 2),
    "sent_noise": (noise(scope="transmission"), 0, 1),
    "sent": (lambda: attacks.make_from(GAMBLER), -2, 0),
    "given": (made(attacks.DataPoisoning, poison=lambda self, *_: _[:2], scope="transmission"), 1, 0),
}


@BOTH_SIZES
@pytest.mark.parametrize("form", FORMS)
def test_only_byzantine_rows_follow_an_attack(form, model):
    factory, own, new = FORMS[form]
    attacks.register("test_mine", factory)
    mine, alone, honest = (
        make(3, attack=attack, model=model, per_environment=overrides)
        for attack, overrides in (("sign_flip", OVERRIDES), ("test_mine", None), ("none", None))
    )
    for _ in range(2):
        rows, mask = honest.gradients, honest.byzantine[..., None]
        others = {"sent_noise": 0 * rows, "sent": own * rows}.get(form, rows)  # honest rows on their way
        attacked = torch.where(mask, (own * rows + new * columns(rows)).float(), others)
        torch.testing.assert_close(alone.gradients, attacked)
        attacked[1] = torch.where(mask[1], -rows[1], rows[1])
        torch.testing.assert_close(mine.gradients, attacked)
        for each in (mine, alone):
            faulty = torch.tensor([attack.is_fault for attack in each.workers.attacks])[
                each.workers.attack_of
            ]
            assert torch.equal(each.byzantine, honest.byzantine & ~faulty[:, None])
            assert torch.equal(each.view.round, honest.view.round)
            assert torch.equal(each.view.previous_update, honest.view.previous_update)
            assert not each.workers.submissions.requires_grad
        for each in (mine, alone, honest):
            each.apply(torch.ones_like(each.view.theta))


@BOTH_SIZES
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_view_of_what_an_attack_was_given(dtype, model):
    mirror = made(corrupt=lambda self, rows, *_: rows.transpose(0, 1).to(dtype))()
    given = {"num_workers": 4, "num_byzantine": 2, "model": model}
    honest, mirrored = (make(4, attack=attack, **given) for attack in ("none", mirror))
    expected = torch.where(honest.byzantine[..., None], honest.gradients.transpose(0, 1), honest.gradients)
    assert torch.equal(mirrored.gradients, expected)


def test_what_is_no_submission_is_refused():
    for bad in (lambda rows: rows[..., :3], lambda rows: rows * 1j, torch.Tensor.to_sparse, str):
        attacks.register("mine", lambda k, bad=bad: lambda gradients, byzantine, context: bad(gradients))
        with pytest.raises(ValueError, match=r"attack mine:k=1 must return a tensor of real .*\(2, 6, 195\)"):
            make(attack="mine:k=1")


def poison(self, x, y, byzantine, context):
    labels = torch.where(byzantine[..., None], (y + 1) % context.num_classes, -100)
    byzantine.fill_(True)
    context.memory.write("poisoned", torch.ones(len(x)))
    return x + 1, labels  # everybody's; the honest are put back


def keep_if_poisoned(self, gradients, byzantine, context):
    return gradients * context.memory.read("poisoned")[:, None, None]


@pytest.mark.parametrize("model", ["mlp:16", "softmax", "mlp:2000"])
def test_only_byzantine_data_is_poisoned(model):
    members = {"poison": poison, "corrupt": keep_if_poisoned, "reads_own": False}
    attacks.register("test_mine", made(attacks.DataPoisoning, **members))
    simulation = make(3, attack="none", model=model, per_environment=OVERRIDES)
    samples, (x, y) = simulation.workers.batches.samples[:, 0], simulation.setup.task.train
    hit = simulation.byzantine & torch.tensor([[True], [False], [True]])
    x, y = x[samples] + hit[..., None, None], (y[samples] + hit[..., None].long()) % 3
    expected = gradients_by_loop(simulation, x, y)
    torch.testing.assert_close(simulation.gradients, expected, rtol=1e-4, atol=1e-6)


def test_poisoning_must_return_batches():
    for bad in (
        lambda self, x, y, *_: None,
        lambda self, x, y, *_: (x[..., :1], y),
        lambda self, x, y, *_: (x, y.float()),
        lambda self, x, y, *_: (x, y - 1),
        lambda self, x, y, *_: (x, y + 1),
    ):
        attacks.register("bad", made(attacks.DataPoisoning, poison=bad))
        with pytest.raises(ValueError, match=r"attack bad must return inputs .* \(2, 6, 4, .* from 0 to 2"):
            make(attack="bad")


@pytest.mark.parametrize("base", [object, attacks.Attack])
@pytest.mark.parametrize("knows", [(), ("rule",), ("qv",), ("rule", "qv")], ids=str)
def test_attacks_are_told_of_their_environments(base, knows):
    def record(self, gradients, byzantine, context):
        seen.append((context, byzantine.clone()))
        return gradients

    seen, method = [], "__call__" if base is object else "corrupt"
    attacks.register("test_mine", made(base, knowledge=frozenset(knows), **{method: record}))
    rate = {"initial": 0.8, "schedule": "step", "every": 1, "factor": 0.5}
    simulation = make(3, attack="zero", learning_rate=rate, per_environment=OVERRIDES)
    simulation.rule = aggregation.make("median", num_byzantine=0)
    for envs in ([0, 1], [1, 2], [2], None):
        play(simulation, envs=envs)
    assert [context.round.tolist() for context, _ in seen] == [[0, 0], [1], [1], [2], [2, 3]]
    (context, byzantine), view, mine = seen[-1], simulation.view, [0, 2]
    assert context.learning_rate.tolist() == pytest.approx([0.2, 0.1])
    assert torch.equal(context.previous_update, view.previous_update[mine])
    assert [simulation.workers.generators.index(one) for one in context.generators] == mine
    assert torch.equal(byzantine, simulation.byzantine[mine])
    assert context.num_classes == 3
    assert context.rule is (simulation.rule if "rule" in knows else None)
    if "qv" in knows:
        assert torch.equal(context.qv[0], simulation.quasi_validation.x[mine])
        assert torch.equal(context.qv[1], simulation.quasi_validation.y[mine])
    else:
        assert context.qv is None


def test_the_rule_is_told_as_the_server_uses_it():
    """With secure groups it sees means over groups."""
    seen = []

    class Knowing(attacks.Attack):
        knowledge = frozenset({"rule"})

        def corrupt(self, gradients, byzantine, context):
            seen.append((context.rule(gradients), gradients.clone()))
            return gradients

    simulation = make(2, attack=Knowing(), secure_group_size=2)
    simulation.rule = aggregation.make("median", num_byzantine=0)
    simulation.apply(simulation.gradients.mean(1))
    found, submitted = seen[-1]
    assert torch.equal(found, simulation.rule(submitted.unflatten(1, (3, 2)).mean(2)))
    assert torch.equal(found, simulation.rule(simulation.gradients))


def test_a_role_function_cannot_change_the_server():
    def meddling(assigned, current, context):
        assert context.rule is None
        assert context.qv is None
        for tensor in (context.round, context.previous_update, context.learning_rate, current):
            tensor.fill_(1)
        return assigned.clone()

    simulation, twin = make(3, roles=meddling), make(3)
    for _ in range(3):
        play(simulation, twin)
        assert torch.equal(simulation.view.round, twin.view.round)
        assert torch.equal(simulation.view.previous_update, twin.view.previous_update)
        assert torch.equal(simulation.gradients, twin.gradients)


@pytest.mark.parametrize("result", [None, torch.ones(2, 6), torch.ones(2, 5).bool(), [True] * 6], ids=repr)
def test_a_role_function_must_return_a_mask(result):
    attacks.roles.register("odd", lambda until: lambda assigned, current, context: result)
    with pytest.raises(
        ValueError, match=r"role function odd:until=3 must return a bool tensor of .*\(2, 6\)"
    ):
        make(roles="odd:until=3")


def fail(*given):
    raise KeyError("bug")


@pytest.mark.parametrize(
    ("argument", "what", "module", "thing"),
    [
        ("attack", "attack", attacks, fail),
        ("attack", "attack", attacks, made(attacks.DataPoisoning, poison=fail)()),
        ("roles", "role function", attacks.roles, fail),
        ("partition", "partition", tasks.partitions, fail),
        ("qv_source", "qv_source", tasks.quasi_validation, fail),
    ],
)
def test_errors_say_whose_they_are(argument, what, module, thing):
    module.register("test_failing", lambda strength=1.0: thing)
    with pytest.raises(KeyError) as caught:
        make(**{argument: "test_failing:strength=2.0"})
    assert caught.value.__notes__ == [f"raised by {what} test_failing:strength=2.0"]


def net(between):
    return lambda shape, classes: nn.Sequential(nn.Linear(500, 40), between, nn.Linear(40, classes))


class TestLeftOutGradients:
    """Gradients that an attack replaces unseen need not be computed; nothing else may change by that."""

    @pytest.fixture(autouse=True)
    def wide_task(self):
        """A task whose models have more than LONG_ROW parameters, so that leaving out is worth it."""
        generator = torch.Generator().manual_seed(0)
        data = torch.randn(200, 500, generator=generator), torch.randint(3, (200,), generator=generator)
        tasks.register("wide", lambda: tasks.Task(data, data, num_classes=3, model="mlp:40"))
        tasks.models.register("wide_dropout", net(nn.Dropout(0.3)))
        tasks.models.register("wide_tanh", net(nn.Tanh()))  # no perceptron of ReLUs: computed by vmap
        attacks.register("seeing", made(attacks.InnerProductManipulation, reads_own=True))

    def rounds(self, count, **arguments):
        """The submissions of some rounds, and how often so many workers' gradients were computed."""
        simulation = make(2, 3, **{"task": "wide", "attack": "ipm", "num_byzantine": 4, **arguments})
        computed, compute = Counter(), simulation.engine.gradients

        def counting(theta, x, *others):
            computed[x.shape[1]] += 1
            compute(theta, x, *others)

        simulation.engine.gradients = counting
        seen = []
        for _ in range(count):
            play(simulation)
            seen.append(simulation.gradients.clone())
        return torch.stack(seen), set(computed)

    @pytest.mark.parametrize("model", ["mlp:40", "softmax", "wide_tanh"])
    @pytest.mark.parametrize("roles", ["static", "randomized:period=2"])
    def test_submissions_are_those_with_all(self, model, roles):
        seen, computed = self.rounds(6, model=model, roles=roles)
        expected, all_computed = self.rounds(6, model=model, roles=roles, attack="seeing")
        torch.testing.assert_close(seen, expected, rtol=1e-4, atol=1e-6)
        assert all_computed == {6}
        if model == "softmax" or roles == "static":  # softmax has 1,503 parameters: not worth it
            assert computed == ({6} if model == "softmax" else {2})

    @pytest.mark.parametrize(
        "arguments",
        [
            {"attack": "sign_flip"},
            {"attack": "label_flip"},
            {"attack": "bit_flip"},
            {"worker_momentum": 0.5},
            {"model": "wide_dropout"},
            {"num_byzantine": 0},
            {"roles": "fluctuating:low=6,high=6"},  # nobody is honest
            {"per_environment": [{"num_byzantine": f} for f in (1, 4)]},
        ],
        ids=str,
    )
    def test_all_are_computed_where_they_matter(self, arguments):
        assert self.rounds(2, **arguments)[1] == {6}

    def test_a_plain_function_sees_honest_gradients(self):
        attempts = (lambda gradients, byzantine, context: 3 * gradients), "none"
        seen, honest = (self.rounds(1, learning_rate=1e-30, attack=attack)[0] for attack in attempts)
        ratio = (seen / honest).nanmedian(-1).values.flatten()
        torch.testing.assert_close(ratio.sort().values, torch.tensor([1.0] * 4 + [3.0] * 8))


def _spied(spec, **arguments):
    """A simulation, and the batches [E, n, B, ...] before and after its attack's `poison`, call by call."""
    kind, parameters = type(attacks.make_from(spec)), specs.parse(spec)
    calls = []

    class Spy(kind):
        def poison(self, x, y, byzantine, context):
            result = super().poison(x, y, byzantine, context)
            calls.append((x.clone(), result, context))
            return result

    parameters.pop("name")
    simulation = Simulation.make(
        num_workers=4, num_byzantine=1, attack=Spy(**parameters), seed=0, **arguments
    )
    return simulation, calls


def test_data_is_poisoned_in_every_local_step():
    simulation, calls = _spied("backdoor:size=2,target=3", local_steps=5, batch_size=32, task="digits")
    assert [x.shape[2] for x, _, _ in calls] == [32] * 5
    for before, (x, y), _ in calls:
        changed = (x != before).flatten(3).any(3)[simulation.byzantine]
        assert changed.sum() == 10  # 20 / 64 of 32
        assert (y[simulation.byzantine][changed] == 3).all()


def test_a_trigger_is_the_same_in_training_and_when_it_is_measured():
    simulation, calls = _spied("backdoor:size=2", task="synthetic")
    largest = simulation.setup.task.train[0].max()
    for _ in range(3):
        simulation.apply(simulation.gradients.mean(1))
    for _, (x, _), _ in calls:
        assert (x[simulation.byzantine][:, :2, :2] == largest).all()
    attack = simulation.workers.attacks[0].attack
    assert (attack.trigger(simulation.setup.task.test[0], simulation.largest_input)[:, :2] == largest).all()


def test_who_knows_the_source_of_qv_samples_does_not_get_them():
    simulation, calls = _spied("leaked_qv:leak=distribution", task="digits")
    for _ in range(30):
        simulation.apply(simulation.gradients.mean(1))
    drawn = torch.cat([context.qv_distribution[0][0].flatten(1) for _, _, context in calls])
    known = simulation.quasi_validation.x[0].flatten(1)
    assert len(drawn.unique(dim=0)) > 100
    assert not (drawn[:, None] == known).all(2).any()


def test_who_knows_the_source_of_qv_samples_needs_others():
    x, y = torch.arange(180.0).view(60, 3), torch.arange(60) % 2
    task = tasks.Task((x[:40], y[:40]), (x[50:], y[50:]), 2, held_out=(x[40:50], y[40:50]))
    with pytest.raises(ValueError, match="no samples beside the 10 of the QV set"):
        Simulation.make(task=task, attack="leaked_qv:leak=distribution", num_workers=4, num_byzantine=1)
