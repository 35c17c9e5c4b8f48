"""What the workers do in a round: batches, gradients, momentum, attacks; and whose data they see."""

import pytest
import torch
from simulation_cases import make, uniform_update
from torch import nn
from torch.nn import functional as F

from byzgym import attacks, tasks


def test_honest_submissions_are_gradients_of_the_workers_batches():
    simulation = make(attack="none")
    task = simulation.setup.task
    module = tasks.models.build("mlp:16", task.input_shape, task.num_classes, torch.Generator())
    samples = simulation.workers.batches.samples[:, 0]
    x, y = simulation.setup.task.train
    for e in range(2):
        nn.utils.vector_to_parameters(simulation.view.theta[e].clone(), module.parameters())
        for i in range(6):
            module.zero_grad()
            F.cross_entropy(module(x[samples[e, i]]), y[samples[e, i]]).backward()
            expected = torch.cat([p.grad.flatten() for p in module.parameters()])
            torch.testing.assert_close(simulation.gradients[e, i], expected, rtol=1e-4, atol=1e-6)


def test_workers_draw_from_their_own_share_only():
    simulation = make(partition="shards")
    workers = simulation.workers.batches
    for _ in range(40):
        slot = int(simulation.view.round[0]) % workers.CHUNK
        for e in range(2):
            for i in range(6):
                share = workers.shares[e, i, : workers.lengths[e, i]]
                assert torch.isin(workers.samples[e, slot, i], share).all()
        simulation.apply(uniform_update(simulation))


def test_shares_of_unequal_length_are_used_to_their_ends():
    simulation = make(1, partition={"name": "dirichlet", "alpha": 0.2}, batch_size=64)
    batches = simulation.workers.batches
    assert batches.lengths[0].max() > batches.lengths[0].min()
    drawn = [set() for _ in range(6)]
    for _ in range(64):
        for worker in range(6):
            drawn[worker].update(batches.samples[0, :, worker].flatten().tolist())
        simulation.apply(torch.zeros_like(simulation.view.theta))
    for worker in range(6):
        assert drawn[worker] == set(batches.shares[0, worker, : batches.lengths[0, worker]].tolist())


def test_byzantine_rows_follow_the_attack_and_honest_rows_do_not():
    honest, attacked = make(attack="none"), make(attack={"name": "sign_flip", "scale": 3.0})
    assert torch.equal(honest.byzantine, attacked.byzantine)
    assert attacked.byzantine.sum(1).tolist() == [2, 2]
    mask = attacked.byzantine[..., None]
    torch.testing.assert_close(attacked.gradients, torch.where(mask, -3 * honest.gradients, honest.gradients))


def test_honest_rows_are_put_back_whatever_an_attack_returns_or_overwrites():
    def greedy(gradients, byzantine, context):
        gradients.fill_(5.0)
        byzantine.fill_(True)
        return torch.full_like(gradients, 9.0)

    attacks.register("test_greedy", lambda: greedy)
    honest, attacked = make(attack="none"), make(attack="test_greedy")
    mask = attacked.byzantine
    assert torch.equal(mask, honest.byzantine)
    assert (attacked.gradients[mask] == 9).all()
    assert torch.equal(attacked.gradients[~mask], honest.gradients[~mask])


@pytest.mark.parametrize("model", ["mlp:16", "mlp:2000"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_attack_may_return_a_view_of_what_it_was_given(dtype, model):
    class Mirror(attacks.Attack):
        def corrupt(self, gradients, byzantine, context):
            return gradients.transpose(0, 1).to(dtype)

    attacks.register("mirror", Mirror)
    alone = make(4, num_workers=4, num_byzantine=2, model=model, attack="none")
    mirrored = make(4, num_workers=4, num_byzantine=2, model=model, attack="mirror")
    expected = torch.where(alone.byzantine[..., None], alone.gradients.transpose(0, 1), alone.gradients)
    assert torch.equal(mirrored.gradients, expected)


def test_an_attack_of_the_wrong_shape_is_named():
    attacks.register("test_wrong", lambda: lambda gradients, byzantine, context: gradients[..., :3])
    with pytest.raises(ValueError, match=r"must return a tensor of real numbers of shape \(2, 6, "):
        make(attack="test_wrong")


@pytest.mark.parametrize("form", [torch.complex64, torch.sparse_coo, "a string"], ids=str)
def test_an_attack_must_return_an_ordinary_tensor_of_real_numbers(form):
    def attack(gradients, byzantine, context):
        if form is torch.sparse_coo:
            return gradients.to_sparse()
        return gradients.to(form) if isinstance(form, torch.dtype) else form

    attacks.register("test_odd", lambda: attack)
    with pytest.raises(ValueError, match=r"attack <function.* must return a tensor of real numbers"):
        make(attack="test_odd")


def test_label_flip_is_the_gradient_of_flipped_labels():
    honest, flipped = make(attack="none"), make(attack="label_flip")
    task = honest.setup.task
    samples = honest.workers.batches.samples[:, 0]
    x, y = task.train[0][samples], task.train[1][samples]
    y = torch.where(honest.byzantine[..., None], task.num_classes - 1 - y, y)
    expected = torch.empty_like(honest.gradients)
    honest.engine.gradients(honest.view.theta, x, y, honest.workers.generators, expected)
    torch.testing.assert_close(flipped.gradients, expected)
    assert not torch.allclose(flipped.gradients, honest.gradients)


def test_poisoned_inputs_and_labels_reach_the_byzantine_workers_only():
    class Poison(attacks.DataPoisoning):
        def poison(self, x, y, byzantine, context):
            return x + 1, (y + 1) % context.num_classes  # everybody's; the honest are put back

    attacks.register("test_poison", Poison)
    overrides = [{}, {"attack": "test_poison"}, {"attack": "test_poison"}]
    honest, poisoned = make(3, attack="none"), make(3, attack="none", per_environment=overrides)
    task, samples = honest.setup.task, honest.workers.batches.samples[:, 0]
    hit = honest.byzantine & torch.tensor([[False], [True], [True]])
    x = task.train[0][samples] + hit[..., None, None]
    y = (task.train[1][samples] + hit[..., None].long()) % task.num_classes
    expected = torch.empty_like(honest.gradients)
    honest.engine.gradients(honest.view.theta, x, y, honest.workers.generators, expected)
    torch.testing.assert_close(poisoned.gradients, expected)


def test_a_transmission_attack_may_change_honest_rows():
    certain = {"name": "gambler", "probability": 1.0, "factor": -2.0, "num_servers": 1, "victims": "all"}
    honest, attacked = make(attack="none"), make(attack=certain)
    torch.testing.assert_close(attacked.gradients, -2 * honest.gradients)


def test_rounds_in_which_nobody_is_honest_are_played():
    roles = {"name": "fluctuating", "low": 6, "high": 6}
    simulation = make(model="mlp:2048", attack="zero", roles=roles)  # wide enough to leave gradients out
    simulation.apply(uniform_update(simulation))
    assert simulation.byzantine.all()
    assert (simulation.gradients == 0).all()


def test_worker_momentum_is_an_average_of_honest_gradients():
    plain, smooth = (
        make(attack="none", learning_rate=1e-30),
        make(attack="none", learning_rate=1e-30, worker_momentum=0.75),
    )
    expected = torch.zeros_like(plain.gradients)
    for _ in range(4):
        expected = 0.75 * expected + 0.25 * plain.gradients
        torch.testing.assert_close(smooth.gradients, expected)
        for simulation in (plain, smooth):
            simulation.apply(torch.zeros_like(simulation.view.theta))


def test_worker_momentum_begins_anew_after_a_gradient_that_is_not_finite():
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


def test_qv_samples_are_in_no_workers_share_nor_in_the_test_data():
    simulation = make(num_envs=3, task="digits")
    task = simulation.setup.task
    qv = {tuple(row.tolist()) for row in simulation.quasi_validation.x.flatten(0, 1).flatten(1)}
    held_out = {tuple(row.tolist()) for row in task.held_out[0].flatten(1)}
    train = {tuple(row.tolist()) for row in task.train[0].flatten(1)}
    assert qv <= held_out
    assert not qv & train
    assert not qv & {tuple(row.tolist()) for row in task.test[0].flatten(1)}


@pytest.mark.parametrize("model", ["mlp:8", "mlp:1500"])
def test_an_attack_may_override_call_and_build_on_another(model):
    class Doubled(attacks.SignFlip):
        def __call__(self, gradients, byzantine, context):
            return 2 * super().__call__(gradients, byzantine, context)

    attacks.register("test_doubled", Doubled)
    honest, attacked = (make(attack=attack, model=model) for attack in ("none", "test_doubled"))
    mask = honest.byzantine[..., None]
    assert torch.equal(attacked.gradients, torch.where(mask, -2 * honest.gradients, honest.gradients))


@pytest.mark.parametrize(("task", "odd"), [("synthetic", True), ("digits", False)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_attack_of_a_batch_puts_its_rows_in_place_to_the_last_bit(task, odd, dtype):
    class Enumerated(attacks.Attack):
        reads_own = False

        def corrupt(self, gradients, byzantine, context):
            return torch.arange(gradients.numel(), dtype=dtype).view(gradients.shape) / 7

    attacks.register("test_enumerated", Enumerated)
    own = [{"attack": attack} for attack in ("test_enumerated", "sign_flip", "test_enumerated", "none")]
    simulation, honest = make(4, task=task, per_environment=own), make(4, task=task, attack="none")
    assert simulation.num_parameters % 2 == odd
    rows, mask = honest.gradients.clone(), honest.byzantine
    numbers = (torch.arange(rows[:2].numel(), dtype=dtype).view(rows[:2].shape) / 7).float()
    rows[0][mask[0]], rows[2][mask[2]] = numbers[0][mask[0]], numbers[1][mask[2]]
    rows[1][mask[1]] *= -1
    assert torch.equal(simulation.byzantine, mask)
    assert torch.equal(simulation.gradients, rows)


@pytest.mark.parametrize("model", ["mlp:8", "mlp:1500"])
@pytest.mark.parametrize("others", [[], ["none"]], ids=["alone", "beside another"])
@pytest.mark.parametrize(("method", "factor"), [(None, 1), ("corrupt", -1), ("__call__", 2)])
def test_noise_from_outside(model, others, method, factor):
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


def test_noise_may_act_on_what_is_sent():
    class Sent(attacks.Noise):
        scope = "transmission"

        def draw(self, rows, generator):
            rows.fill_(7.0)

    attacks.register("test_noise", Sent)
    simulation = make(3, attack="test_noise")
    expected = torch.where(simulation.byzantine[..., None], 7.0, torch.zeros_like(simulation.gradients))
    assert torch.equal(simulation.gradients, expected)
