"""Rounds in which only a cohort of the workers takes part."""

import pytest
import torch
from simulation_cases import make

from byzgym import agents, attacks, forensics
from byzgym.aggregation import Decision
from byzgym.aggregation.evidence import running_mean
from byzgym.simulation import Simulation

N, M = 12, 5
SAMPLED = {"num_workers": N, "cohort_size": M, "num_byzantine": 4, "attack": "none"}


def rounds(simulation, count, policy="mean"):
    agent = agents.build(policy, simulation)
    for _ in range(count):
        yield simulation.view
        simulation.apply(agent.decide(simulation.view))


def test_every_worker_takes_part_equally_often():
    simulation = make(num_envs=4, **SAMPLED)
    counts = torch.zeros(4, N, dtype=torch.int64)
    for view in rounds(simulation, 300):
        assert view.gradients.shape[1] == M
        assert (view.workers.diff(dim=1) > 0).all()
        counts.scatter_add_(1, view.workers, torch.ones_like(view.workers))
    expected = 300 * M / N
    assert ((counts - expected).abs() < 5 * (expected * (1 - M / N)) ** 0.5).all()
    assert len({tuple(row) for row in counts.tolist()}) == 4  # each environment draws for itself


def test_byzantine_workers_stay_the_same_and_are_those_that_attack():
    simulation = make(**{**SAMPLED, "attack": "zero"})
    for view in rounds(simulation, 20):
        assigned = simulation.workers.assigned
        assert assigned.sum(1).tolist() == [4, 4]
        assert torch.equal(simulation.byzantine, assigned.gather(1, view.workers))
        assert torch.equal(~view.gradients.any(2), simulation.byzantine)


def test_workers_draw_from_their_own_shares():
    simulation = make(**SAMPLED, partition="shards")
    batches = simulation.workers.batches
    for view in rounds(simulation, 40):
        for env in range(2):
            samples = batches.samples[env, view.round[env] % batches.CHUNK]
            for row, worker in enumerate(view.workers[env].tolist()):
                own = batches.shares[env, worker, : batches.lengths[env, worker]]
                assert set(samples[row].tolist()) <= set(own.tolist())


def test_momentum_is_each_workers_own():
    plain, smooth = (make(**SAMPLED, learning_rate=1e-30, worker_momentum=beta) for beta in (0.0, 0.75))
    expected = torch.zeros(2, N, plain.num_parameters)
    env = torch.arange(2)[:, None]
    for view in rounds(plain, 6):
        expected[env, view.workers] = 0.75 * expected[env, view.workers] + 0.25 * view.gradients
        torch.testing.assert_close(smooth.gradients, expected[env, smooth.view.workers])
        smooth.apply(smooth.gradients.mean(1))


def test_a_running_mean_follows_workers_and_not_rows():
    simulation = make(**SAMPLED)
    seen = {}
    for view in rounds(simulation, 30):
        values = view.workers * 10.0 + view.round[:, None]
        mean = running_mean(view, "mine", values, 0.25)
        assert torch.equal(mean, running_mean(view, "mine", values, 0.25))
        for env in range(2):
            for row, worker in enumerate(view.workers[env].tolist()):
                past = seen.setdefault((env, worker), [])
                past.append(float(values[env, row]))
                weights = [0.75**age for age in reversed(range(len(past)))]
                by_hand = sum(w * v for w, v in zip(weights, past, strict=True)) / sum(weights)
                assert float(mean[env, row]) == pytest.approx(by_hand, rel=1e-5)


def test_credits_of_a_worker_are_those_of_its_last_round():
    simulation, last = make(**SAMPLED), torch.full((2, N), 1 / M)
    env = torch.arange(2)[:, None]
    for _ in range(12):
        view = simulation.view
        torch.testing.assert_close(view.previous_credits, last[env, view.workers])
        credits = torch.softmax(view.workers / N, 1)
        last[env, view.workers] = credits
        simulation.apply(Decision.from_credits(credits, view))


def test_everybody_as_the_cohort_changes_nothing():
    whole, default = (make(attack="sign_flip", cohort_size=size) for size in (6, None))
    for _ in range(20):
        assert whole.gradients.equal(default.gradients)
        whole.apply(whole.gradients.mean(1))
        default.apply(default.gradients.mean(1))


def test_the_same_seed_gives_the_same_cohorts_and_a_batch_those_of_single_runs():
    both, again, second = (make(**SAMPLED), make(**SAMPLED), make(num_envs=1, seed=1, **SAMPLED))
    for _ in range(20):
        assert both.view.workers.equal(again.view.workers)
        assert both.view.workers[1:].equal(second.view.workers)
        for simulation in (both, again, second):
            simulation.apply(simulation.gradients.mean(1))
    torch.testing.assert_close(both.view.theta[1:], second.view.theta, rtol=1e-4, atol=1e-5)


def test_a_snapshot_repeats_cohorts():
    simulation = make(**SAMPLED, worker_momentum=0.5)
    agent = agents.build("trust", simulation)
    for _ in range(10):
        simulation.apply(agent.decide(simulation.view))
    saved = simulation.snapshot()
    runs = []
    for _ in range(2):
        simulation.restore(saved)
        for _ in range(10):
            simulation.apply(agent.decide(simulation.view))
        runs.append(simulation.view.theta.clone())
    assert runs[0].equal(runs[1])


def test_mimic_copies_a_worker_and_not_a_row():
    simulation = make(**{**SAMPLED, "cohort_size": 11, "attack": "mimic:warmup=1"})
    worker = [None, None]
    followed = 0
    for view in rounds(simulation, 25):
        for env in range(2):
            byzantine = simulation.byzantine[env].nonzero()[:, 0]
            honest = (~simulation.byzantine[env]).nonzero()[:, 0].tolist()
            copied = [
                row for row in honest if view.gradients[env, row].equal(view.gradients[env, byzantine[0]])
            ]
            assert len(copied) == 1
            now = int(view.workers[env, copied[0]])
            if worker[env] in view.workers[env].tolist():
                assert now == worker[env]
                followed += view.round[env] > 0
            worker[env] = now
    assert followed > 20


def test_replay_needs_everybody():
    with pytest.raises(ValueError, match="replay needs every worker in every round, got a cohort"):
        make(**{**SAMPLED, "attack": "replay"})


@pytest.mark.parametrize("attack", sorted(set(attacks.names()) - {"adaptive", "replay"}))
def test_attacks_work_where_a_cohort_has_nobody_honest_or_nobody_byzantine(attack):
    simulation = make(num_workers=4, cohort_size=2, num_byzantine=2, attack=attack, learning_rate=0.01)
    kinds = set()
    for view in rounds(simulation, 25):
        kinds |= set(simulation.byzantine.sum(1).tolist())
        assert view.theta.isfinite().all()
    assert kinds == ({0} if attack == "gambler" else {0, 1, 2})  # a fault makes nobody Byzantine


@pytest.mark.parametrize(
    "policy", ["krum", "trust", "set", "gaa", "uniform", "oracle", "ensemble:members=krum+trust"]
)
def test_policies_play_with_cohorts(policy):
    simulation = make(**{**SAMPLED, "attack": "sign_flip", "cohort_size": 8})
    for view in rounds(simulation, 5, policy):
        assert view.theta.isfinite().all()


def test_rules_are_told_how_many_to_expect_in_a_cohort():
    simulation = make(**{**SAMPLED, "num_byzantine": 5})  # 5 of 12, in cohorts of 5
    assert simulation.most_byzantine == 3
    assert agents.build("median", simulation).policy.num_byzantine == 2  # the most that it accepts
    assert make(num_byzantine=2).most_byzantine == 2


def test_forensics_do_not_take_cohorts():
    simulation, log = make(**SAMPLED), forensics.Log(rounds=3)
    decision = agents.build("mean", simulation).decide(simulation.view)
    with pytest.raises(ValueError, match="view must be of all workers, which"):
        log.add(simulation.view, decision)


def test_secure_groups_hide_who_takes_part():
    simulation = make(**{**SAMPLED, "cohort_size": 6}, secure_group_size=3)
    for view in rounds(simulation, 3, "trust"):
        assert view.workers is None
        assert view.gradients.shape[1] == 2


def test_ten_thousand_clients_train_a_model():
    task = "synthetic:num_samples=25000"
    simulation = Simulation.make(
        seed=0,
        task=task,
        num_workers=10_000,
        cohort_size=20,
        num_byzantine=2_000,
        attack="sign_flip",
        rounds=60,
    )
    before = float(simulation.evaluate()["accuracy"])
    for _ in rounds(simulation, 60, "trust"):
        pass
    assert float(simulation.evaluate()["accuracy"]) > max(0.8, before + 0.2)


@pytest.mark.parametrize("size", [0, 13, -1, 2.5, "3"])
def test_wrong_sizes_are_refused(size):
    with pytest.raises((ValueError, TypeError), match="cohort_size"):
        make(**{**SAMPLED, "cohort_size": size})


def test_a_group_size_must_divide_the_cohort():
    with pytest.raises(ValueError, match="secure_group_size must divide cohort_size=5, got 2"):
        make(**SAMPLED, secure_group_size=2)


def test_set_remembers_workers_and_not_rows():
    simulation, counts = make(**{**SAMPLED, "attack": "sign_flip"}), torch.zeros(2, N)
    for view in rounds(simulation, 15, "set"):
        counts.scatter_add_(1, view.workers, torch.ones(view.workers.shape))
        before = view
    memory = simulation.memory
    assert memory.read_of(before.workers, N, "set.ages").equal(counts.gather(1, before.workers))
    credits = memory.read_of(before.workers, N, "set.credits")
    assert credits.sum(1) == pytest.approx(before.gradients.new_ones(2), abs=0.5)


@pytest.mark.parametrize("policy", ["median", "trust", "uniform"])
def test_servers_of_blocks_know_who_takes_part(policy):
    simulation = make(**SAMPLED, num_servers=3)
    for view in rounds(simulation, 4, policy):
        cohort = simulation.workers.cohort
        assert view.workers.equal(cohort.repeat_interleave(3, 0))
        assert view.gradients.shape[:2] == (6, M)


def test_crafted_losses_are_minimised_in_all_local_steps():
    one, two = (
        make(attack="leaked_qv", local_steps=steps, learning_rate=0.1, partition="shards") for steps in (1, 2)
    )
    byzantine = one.byzantine
    assert not one.gradients[byzantine].allclose(two.gradients[byzantine])
    assert two.gradients.isfinite().all()
