"""The workers: gradients, momentum, attacks and roles, and what of them an attack or a role function can change."""

from collections import Counter

import pytest
import torch
from simulation_cases import make, play, uniform_update
from torch import nn
from torch.nn import functional as F

from byzgym import aggregation, attacks, tasks

BOTH_SIZES = pytest.mark.parametrize("model", ["mlp:8", "mlp:1500"])  # rows below and above LONG_ROW


def batches_of(simulation):
    """Inputs [E, n, B, ...] and labels [E, n, B] of round 0."""
    samples = simulation.workers.batches.samples[:, 0]
    x, y = simulation.setup.task.train
    return x[samples], y[samples]


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


def assert_close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_honest_submissions_are_gradients_of_batches():
    simulation = make(attack="none")
    assert_close(simulation.gradients, gradients_by_loop(simulation, *batches_of(simulation)))


def test_label_flip_is_the_gradient_of_flipped_labels():
    flipped = make(attack="label_flip")
    x, y = batches_of(flipped)
    y = torch.where(flipped.byzantine[..., None], flipped.setup.task.num_classes - 1 - y, y)
    assert_close(flipped.gradients, gradients_by_loop(flipped, x, y))


def test_only_byzantine_rows_follow_the_attack():
    honest, attacked = make(attack="none"), make(attack="sign_flip:scale=3.0")
    assert torch.equal(honest.byzantine, attacked.byzantine)
    assert attacked.byzantine.sum(1).tolist() == [2, 2]
    mask = attacked.byzantine[..., None]
    torch.testing.assert_close(attacked.gradients, torch.where(mask, -3 * honest.gradients, honest.gradients))


def test_a_transmission_attack_may_change_honest_rows():
    certain = {"name": "gambler", "probability": 1.0, "factor": -2.0, "num_servers": 1, "victims": "all"}
    honest, attacked = make(attack="none"), make(attack=certain)
    torch.testing.assert_close(attacked.gradients, -2 * honest.gradients)


def test_rounds_in_which_nobody_is_honest():
    simulation = make(model="mlp:2048", attack="zero", roles="fluctuating:low=6,high=6")
    play(simulation)
    assert simulation.byzantine.all()
    assert not simulation.gradients.any()


def test_worker_momentum_averages_honest_gradients():
    plain, smooth = (make(attack="none", learning_rate=1e-30, worker_momentum=beta) for beta in (0.0, 0.75))
    expected = torch.zeros_like(plain.gradients)
    for _ in range(4):
        expected = 0.75 * expected + 0.25 * plain.gradients
        torch.testing.assert_close(smooth.gradients, expected)
        play(plain, smooth)


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


class TestAttacksFromOutside:
    def test_honest_rows_are_put_back(self):
        def greedy(gradients, byzantine, context):
            gradients.fill_(5.0)
            byzantine.fill_(True)
            for tensor in (context.round, context.previous_update, context.learning_rate):
                tensor.fill_(7)
            return torch.full_like(gradients, 9.0)

        attacks.register("test_greedy", lambda: greedy)
        honest, attacked = make(attack="none"), make(attack="test_greedy")
        for _ in range(3):
            mask = attacked.byzantine
            assert torch.equal(mask, honest.byzantine)
            assert (attacked.gradients[mask] == 9).all()
            torch.testing.assert_close(attacked.gradients[~mask], honest.gradients[~mask])
            for name in ("round", "previous_update", "learning_rate"):
                assert torch.equal(getattr(attacked.view, name), getattr(honest.view, name))
            for each in (honest, attacked):
                each.apply(torch.ones_like(each.view.theta))

    @pytest.mark.parametrize("model", ["mlp:16", "mlp:2000"])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_a_view_of_what_was_given(self, dtype, model):
        class Mirror(attacks.Attack):
            def corrupt(self, gradients, byzantine, context):
                return gradients.transpose(0, 1).to(dtype)

        attacks.register("mirror", Mirror)
        alone = make(4, num_workers=4, num_byzantine=2, model=model, attack="none")
        mirrored = make(4, num_workers=4, num_byzantine=2, model=model, attack="mirror")
        expected = torch.where(alone.byzantine[..., None], alone.gradients.transpose(0, 1), alone.gradients)
        assert torch.equal(mirrored.gradients, expected)

    @pytest.mark.parametrize("others", [[], ["none"]], ids=["alone", "beside_another"])
    @pytest.mark.parametrize("base", [attacks.Attack, attacks.DataPoisoning])
    def test_what_was_given_as_transmission(self, base, others):
        class Lazy(base):
            scope = "transmission"

            def poison(self, x, y, byzantine, context):
                return x, y

            def corrupt(self, gradients, byzantine, context):
                sent.append(gradients.clone())
                return gradients

        sent = []
        attacks.register("test_lazy", Lazy)
        simulation = make(8, attack=["test_lazy", *others])
        assert torch.equal(simulation.gradients[simulation.workers.attack_of == 0], sent[-1])
        assert sent[-1].any()

    @pytest.mark.parametrize("form", ["shape", "complex", "sparse", "string"])
    def test_what_is_no_submission_is_refused(self, form):
        def attack(gradients, byzantine, context):
            return {
                "shape": gradients[..., :3],
                "complex": gradients.to(torch.complex64),
                "sparse": gradients.to_sparse(),
                "string": "a string",
            }[form]

        attacks.register("test_odd", lambda: attack)
        with pytest.raises(ValueError, match=r"attack test_odd must return a tensor of real .* \(2, 6, 195\)"):
            make(attack="test_odd")

    @BOTH_SIZES
    def test_call_may_build_on_another(self, model):
        class Doubled(attacks.SignFlip):
            def __call__(self, gradients, byzantine, context):
                return 2 * super().__call__(gradients, byzantine, context)

        attacks.register("test_doubled", Doubled)
        honest, attacked = (make(attack=attack, model=model) for attack in ("none", "test_doubled"))
        mask = honest.byzantine[..., None]
        assert torch.equal(attacked.gradients, torch.where(mask, -2 * honest.gradients, honest.gradients))

    @pytest.mark.parametrize("task", ["synthetic", "digits"])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_several_attacks_in_one_batch(self, task, dtype):
        class Enumerated(attacks.Attack):
            reads_own = False

            def corrupt(self, gradients, byzantine, context):
                return torch.arange(gradients.numel(), dtype=dtype).view(gradients.shape) / 7

        attacks.register("test_enumerated", Enumerated)
        own = [{"attack": attack} for attack in ("test_enumerated", "sign_flip", "test_enumerated", "none")]
        simulation, honest = make(4, task=task, per_environment=own), make(4, task=task, attack="none")
        rows, mask = honest.gradients.clone(), honest.byzantine
        numbers = (torch.arange(rows[:2].numel(), dtype=dtype).view(rows[:2].shape) / 7).float()
        rows[0][mask[0]], rows[2][mask[2]] = numbers[0][mask[0]], numbers[1][mask[2]]
        rows[1][mask[1]] *= -1
        assert torch.equal(simulation.byzantine, mask)
        assert torch.equal(simulation.gradients, rows)

    @BOTH_SIZES
    @pytest.mark.parametrize("others", [[], ["none"]], ids=["alone", "beside_another"])
    @pytest.mark.parametrize(("method", "factor"), [(None, 1), ("corrupt", -1), ("__call__", 2)])
    def test_noise(self, model, others, method, factor):
        class Counting(attacks.Noise):
            def draw(self, rows, generator):
                rows.copy_(torch.arange(rows.numel()).view(rows.shape))

        class Changed(Counting):
            pass

        if method is not None:
            below = getattr(attacks.Noise, method)
            setattr(Changed, method, lambda self, *arguments: factor * below(self, *arguments))
        attacks.register("test_noise", Changed)
        simulation = make(8, attack=["test_noise", *others], model=model)
        honest = make(8, attack=["none", *others], model=model)
        expected = honest.gradients.clone()
        for env in (simulation.workers.attack_of == 0).nonzero()[:, 0].tolist():
            rows = expected[env, honest.byzantine[env]]
            expected[env, honest.byzantine[env]] = factor * torch.arange(rows.numel()).float().view(rows.shape)
        torch.testing.assert_close(simulation.gradients, expected)

    def test_noise_may_act_on_what_is_sent(self):
        class Sent(attacks.Noise):
            scope = "transmission"

            def draw(self, rows, generator):
                rows.fill_(7.0)

        attacks.register("test_noise", Sent)
        simulation = make(3, attack="test_noise")
        expected = torch.where(simulation.byzantine[..., None], 7.0, torch.zeros_like(simulation.gradients))
        assert torch.equal(simulation.gradients, expected)

    @pytest.mark.parametrize("scope", ["workers", "transmission"])
    def test_a_graph_that_an_attack_builds_is_not_kept(self, scope):
        class Learned:
            def __init__(self):
                self.scope, self.factor = scope, torch.full((), -2.0, requires_grad=True)

            def __call__(self, gradients, byzantine, context):
                return self.factor * gradients

        attacks.register("test_learned", Learned)
        simulation = make(attack="test_learned", worker_momentum=0.5)
        for _ in range(2):
            workers, view = simulation.workers, simulation.view
            for tensor in (workers.submissions, workers.momentum, view.theta, view.qv_gradient):
                assert not tensor.requires_grad
            play(simulation)


class TestPoisoning:
    def test_data_of_byzantine_workers_only(self):
        class Poison(attacks.DataPoisoning):
            reads_own = False  # it gets all batches nevertheless

            def poison(self, x, y, byzantine, context):
                byzantine.fill_(True)
                return x + 1, (y + 1) % context.num_classes  # everybody's; the honest are put back

        attacks.register("test_poison", Poison)
        overrides = [{}, {"attack": "test_poison"}, {"attack": "test_poison"}]
        poisoned = make(3, attack="none", per_environment=overrides)
        hit = poisoned.byzantine & torch.tensor([[False], [True], [True]])
        x, y = batches_of(poisoned)
        x, y = x + hit[..., None, None], (y + hit[..., None].long()) % poisoned.setup.task.num_classes
        assert_close(poisoned.gradients, gradients_by_loop(poisoned, x, y))
        make(attack="test_poison", model="mlp:2000")

    def test_labels_of_honest_workers_do_not_count(self):
        class Careless(attacks.DataPoisoning):
            def poison(self, x, y, byzantine, context):
                return x, torch.where(byzantine[..., None], context.num_classes - 1 - y, -100)

        attacks.register("test_careless", Careless)
        assert torch.equal(make(attack="test_careless").gradients, make(attack="label_flip").gradients)

    @pytest.mark.parametrize(
        "bad",
        [
            lambda x, y: None,
            lambda x, y: (x, y.float()),
            lambda x, y: (x, torch.full_like(y, 3)),
            lambda x, y: (x, torch.full_like(y, -1)),
            lambda x, y: (x[..., :1], y),
        ],
        ids=["nothing", "type", "class", "negative", "shape"],
    )
    def test_it_must_return_batches(self, bad):
        class Bad(attacks.DataPoisoning):
            def poison(self, x, y, byzantine, context):
                return bad(x, y)

        attacks.register("test_bad", Bad)
        with pytest.raises(ValueError, match=r"attack test_bad must return inputs .* \(2, 6, 4, .* from 0 to 2"):
            make(attack="test_bad")


class TestContexts:
    @pytest.mark.parametrize("base", [object, attacks.Attack])
    @pytest.mark.parametrize("knows", [(), ("rule",), ("qv",), ("rule", "qv")], ids=str)
    def test_an_attack_is_told_of_its_own_environments(self, base, knows):
        class Recorder(base):
            knowledge = frozenset(knows)

            def corrupt(self, gradients, byzantine, context):
                seen.append((context, byzantine.clone()))
                return gradients

        if base is object:
            Recorder.__call__ = Recorder.corrupt
        seen = []
        attacks.register("test_recorder", Recorder)
        simulation = make(
            4,
            attack="zero",
            learning_rate={"initial": 1.0, "schedule": "linear"},
            per_environment=[{}, {"attack": "test_recorder"}, {}, {"attack": "test_recorder"}],
        )
        simulation.rule = aggregation.make("median", num_byzantine=0)
        for envs in ([1, 2], [0, 3], [3]):
            play(simulation, envs=envs)
        assert [context.round.tolist() for context, _ in seen] == [[0, 0], [1], [1], [2]]
        play(simulation)
        (context, byzantine), view, mine = seen[-1], simulation.view, [1, 3]
        assert context.round.tolist() == view.round[mine].tolist() == [2, 3]
        assert torch.equal(context.learning_rate, view.learning_rate[mine])
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

    def test_a_role_function_cannot_change_the_server(self):
        def meddling(assigned, current, context):
            seen.append((context.rule, context.qv))
            for tensor in (context.round, context.previous_update, context.learning_rate, current):
                tensor.fill_(1)
            return assigned.clone()

        seen = []
        attacks.roles.register("test_meddling", lambda: meddling)
        simulation, twin = make(3, roles="test_meddling"), make(3)
        for _ in range(3):
            play(simulation, twin)
            assert torch.equal(simulation.view.round, twin.view.round)
            assert torch.equal(simulation.view.previous_update, twin.view.previous_update)
            assert torch.equal(simulation.gradients, twin.gradients)
        assert set(seen) == {(None, None)}

    @pytest.mark.parametrize(
        "result", [None, torch.ones(2, 6), torch.ones(2, 5, dtype=torch.bool), [True] * 6], ids=repr
    )
    def test_a_role_function_must_return_a_mask(self, result):
        attacks.roles.register("odd", lambda until: lambda assigned, current, context: result)
        message = r"role function odd:until=3 must return a bool tensor of shape \(2, 6\)"
        with pytest.raises(ValueError, match=message):
            make(roles="odd:until=3")

    @pytest.mark.parametrize("argument", ["attack", "roles", "partition", "qv_source", "poison"])
    def test_errors_say_whose_they_are(self, argument):
        def fail(*given):
            raise KeyError("bug")

        class Poison(attacks.DataPoisoning):
            poison = fail

        module, thing, what = {
            "attack": (attacks, fail, "attack"),
            "poison": (attacks, Poison(), "attack"),
            "roles": (attacks.roles, fail, "role function"),
            "partition": (tasks.partitions, fail, "partition"),
            "qv_source": (tasks.quasi_validation, fail, "qv_source"),
        }[argument]
        module.register("test_failing", lambda strength=1.0: thing)
        with pytest.raises(KeyError) as caught:
            make(**{"attack" if argument == "poison" else argument: "test_failing:strength=2.0"})
        assert caught.value.__notes__ == [f"raised by {what} test_failing:strength=2.0"]


class TestLeftOutGradients:
    """Gradients that an attack replaces unseen need not be computed; nothing else may change by that."""

    BLIND = {"name": "ipm", "epsilon": 0.7}

    class SeeingIpm(attacks.InnerProductManipulation):
        """The same attack, but for the promise not to read the Byzantine rows."""

        reads_own = True

    @pytest.fixture(autouse=True)
    def wide_task(self):
        """A task whose models have more than LONG_ROW parameters, so that leaving gradients out is worth it."""

        def net(between):
            return lambda input_shape, num_classes: nn.Sequential(
                nn.Linear(500, 40), between, nn.Linear(40, num_classes)
            )

        generator = torch.Generator().manual_seed(0)
        x, y = torch.randn(200, 500, generator=generator), torch.randint(3, (200,), generator=generator)
        tasks.register("wide", lambda: tasks.Task((x, y), (x, y), num_classes=3, model="mlp:40"))
        tasks.models.register("wide_dropout", net(nn.Dropout(0.3)))
        tasks.models.register("wide_tanh", net(nn.Tanh()))  # no perceptron of ReLUs: computed by vmap
        attacks.register("seeing_ipm", self.SeeingIpm)

    def rounds(self, count=6, **arguments):
        """The submissions of some rounds, and how often so many workers' gradients were computed."""
        simulation = make(2, 3, **{"task": "wide", "num_byzantine": 4, **arguments})
        computed, compute = Counter(), simulation.engine.gradients

        def counting(theta, x, *others):
            computed[x.shape[1]] += 1
            compute(theta, x, *others)

        simulation.engine.gradients = counting
        seen = []
        for _ in range(count):
            simulation.apply(uniform_update(simulation))
            seen.append((simulation.byzantine.clone(), simulation.gradients.clone()))
        return seen, computed

    @pytest.mark.parametrize("model", ["mlp:40", "softmax", "wide_tanh"])
    @pytest.mark.parametrize("roles", ["static", "randomized:period=2"])
    def test_submissions_are_those_with_all(self, model, roles):
        arguments = {"model": model, "roles": roles}
        seen, computed = self.rounds(attack=self.BLIND, **arguments)
        expected, all_computed = self.rounds(attack={**self.BLIND, "name": "seeing_ipm"}, **arguments)
        for (mask, submitted), (expected_mask, rows) in zip(seen, expected, strict=True):
            assert torch.equal(mask, expected_mask)
            assert_close(submitted, rows)
        assert set(all_computed) == {6}
        if model == "softmax":  # 1,503 parameters: not worth it
            assert set(computed) == {6}
        elif roles == "static":
            assert set(computed) == {2}

    @pytest.mark.parametrize(
        "arguments",
        [
            {"attack": "sign_flip"},
            {"attack": "label_flip"},
            {"attack": "bit_flip"},
            {"attack": BLIND, "worker_momentum": 0.5},
            {"attack": BLIND, "model": "wide_dropout"},
            {"attack": BLIND, "num_byzantine": 0},
            {"attack": BLIND, "per_environment": [{"num_byzantine": f} for f in (1, 4)]},
        ],
        ids=str,
    )
    def test_all_are_computed_where_they_matter(self, arguments):
        assert set(self.rounds(2, **arguments)[1]) == {6}

    def test_a_plain_function_sees_honest_gradients(self):
        def spy(gradients, byzantine, context):
            shown.append(gradients[byzantine].clone())
            return torch.zeros_like(gradients)

        shown = []
        attacks.register("wide_spy", lambda: spy)
        self.rounds(0, attack="wide_spy")
        honest = make(2, 3, task="wide", num_byzantine=4, attack="none")
        torch.testing.assert_close(shown[0], honest.gradients[honest.byzantine])

    def test_leftovers_of_a_rejected_submission(self):
        """Omniscient submissions overflow and stay in the buffer with secure groups, which cannot reject rows."""
        overflowing = {"name": "omniscient", "factor": 1e38}
        simulation = make(1, 3, task="wide", num_byzantine=4, attack=overflowing, secure_group_size=2)
        for _ in range(3):
            simulation.apply(torch.zeros(1, simulation.num_parameters))
            honest = simulation.workers.submissions[~simulation.byzantine]
            assert honest.isfinite().all()
            assert honest.any(1).all()
