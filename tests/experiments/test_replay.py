import numpy as np
import pytest
import torch
from safetensors import safe_open

from byzgym import agents, aggregation, tasks
from byzgym.ambient import episode_seed
from byzgym.experiments import Comparison, compare
from byzgym.experiments.replay import DifferentRunError, Replay
from byzgym.experiments.store import Store, pack
from byzgym.simulation import Simulation

MEMBERS = [("sign_flip", 0), ("sign_flip", 1), ("ipm:epsilon=2.0", 0), ("ipm:epsilon=2.0", 1)]


def key_of(folder, policy, attack="ipm:epsilon=2.0", seed=1):
    with Store(folder) as store:
        table = store.table()
    chosen = (table["policy"] == policy) & (table["attack"] == attack) & (table["seed"] == seed)
    (key,) = table.loc[chosen, "key"]
    return key


def replay_of(folder, policy, **run):
    with Store(folder) as store:
        return Replay(store, key_of(folder, policy, **run))


def directly(policy, rounds, then=None, excluded=(), total=20):
    """The parameters [d] of the last of `MEMBERS`, played without anything of `experiments`."""
    torch.set_num_threads(1)
    attacks = [attack for attack, _ in MEMBERS]
    each = [{"attack": attack} for attack in attacks]
    simulation = Simulation.make(4, 0, each, attack=attacks[0], task="synthetic", rounds=20, num_byzantine=7)
    agent = agents.build(policy, simulation)
    simulation.reset([episode_seed(np.random.default_rng(seed)) for _, seed in MEMBERS])
    agent.reset()
    for round in range(total):
        if round == rounds and then:
            agent = agents.build(then, simulation)
            agent.reset()
        view = simulation.view
        if round >= rounds:
            view.gradients[:, list(excluded)] = 0
            view.rejected[:, list(excluded)] = True
        simulation.apply(agent.decide(view))
    return simulation.server.theta[3]


def flat(state):
    return torch.cat([value.flatten() for value in state.parameters.values()])


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("policy", ["mean", "gaa", "median"])
def test_a_round_is_that_of_a_direct_simulation(folder, policy):
    state = replay_of(folder, policy).to(13)
    assert state.round == 13
    assert torch.equal(flat(state), directly(policy, 13, total=13))


def test_the_last_round_is_the_recorded_one(folder):
    replay = replay_of(folder, "krum")
    state, again = replay.to(20), replay_of(folder, "krum").to(20)
    assert (state.accuracy, state.qv_loss) == (replay.recorded["accuracy"], replay.recorded["qv_loss"])
    assert torch.equal(flat(state), flat(again))
    with Store(folder) as store:
        trace = store.credits(replay.key)
    assert state.credits == trace["credits"][-1].tolist()
    assert state.byzantine == trace["byzantine"][-1].tolist()
    assert sum(state.byzantine) == 7


@pytest.mark.parametrize("policy", ["gaa", "median"])
def test_going_on_is_the_run_without_interruption(folder, policy):
    replay = replay_of(folder, policy)
    replay.to(6)
    assert torch.equal(flat(replay.go_on()), flat(replay_of(folder, policy).to(20)))


def test_a_round_between_two_points_of_the_curve(small, tmp_path):
    compare(small(policies="gaa", evaluate_every=8), tmp_path)
    replay = replay_of(tmp_path, "gaa")
    assert torch.equal(flat(replay.to(3)), directly("gaa", 3, total=3))
    # it has played on to round 8, and begins again from 3
    assert torch.equal(flat(replay.go_on("median")), directly("gaa", 3, then="median"))


def test_another_policy_plays_the_rest(folder):
    replay = replay_of(folder, "mean")
    replay.to(5)
    state = replay.go_on("krum")
    assert torch.equal(flat(state), directly("mean", 5, then="krum"))
    assert sum(state.credits) == 1
    replay.to(5)
    assert torch.equal(flat(replay.go_on("gaa")), directly("mean", 5, then="gaa"))


def test_workers_are_left_out(folder):
    replay = replay_of(folder, "mean")
    replay.to(5)
    state = replay.go_on(without=[2, 4])
    assert [worker for worker, credit in enumerate(state.credits) if credit == 0] == [2, 4]
    assert torch.equal(flat(state), directly("mean", 5, excluded=[2, 4]))


def test_workers_of_a_cohort_are_left_out(small, tmp_path):
    compare(small(policies="mean", cohort_size=4), tmp_path)
    replay = replay_of(tmp_path, "mean")
    replay.to(3)
    state = replay.go_on(without=[0, 1, 2, 3, 4])
    credits = dict(zip(state.workers, state.credits, strict=True))
    assert len(credits) == 4
    assert all((credit == 0) == (worker < 5) for worker, credit in credits.items())


def test_before_the_first_round(folder):
    state = replay_of(folder, "krum").to(0)
    assert state.credits is None
    assert sum(state.byzantine) == 7


def test_mistakes_are_named(folder):
    replay = replay_of(folder, "krum")
    with pytest.raises(ValueError, match="to must be an integer from 0 to 20, got 21"):
        replay.to(21)
    with pytest.raises(RuntimeError, match=r"call to\(round\) first"):
        replay.go_on()
    replay.to(0)
    with pytest.raises(ValueError, match=r"without \(each\) must be an integer from 0 to 9, got 10"):
        replay.go_on(without=[10])
    with pytest.raises(ValueError, match="without must leave a worker, got all 10"):
        replay.go_on(without=range(10))
    with pytest.raises(ValueError, match="unknown agent 'nobody'"):
        replay.go_on("nobody")
    with Store(folder) as store:
        for run, count in (("nothing", "none"), ("", "20")):
            with pytest.raises(ValueError, match=f"got '{run}', with which {count} of 20 begin"):
                Replay(store, run)
        assert Replay(store, replay.key[:12]).key == replay.key


def test_secure_groups_hide_workers(small, tmp_path):
    compare(small(policies="mean", secure_group_size=2, rounds=3), tmp_path)
    replay = replay_of(tmp_path, "mean")
    assert len(replay.to(1).workers) == 5
    with pytest.raises(ValueError, match="groups of 2 hide who sends"):
        replay.go_on(without=[1])


def test_a_failed_run_cannot_be_taken_back(tmp_path):
    compare(Comparison(task="synthetic", policies="mean", attacks="zero", rounds=2, seeds=1), tmp_path)
    with Store(tmp_path) as store:
        row = store.row(key_of(tmp_path, "mean", attack="zero", seed=0))
        store.add([{**row, "key": "f" * 64, "status": "failed", "error": "ArithmeticError: no number"}])
        with pytest.raises(
            ValueError, match=r"finished one, got f{64}, which failed: ArithmeticError: no num"
        ):
            Replay(store, "ffff")


def test_code_that_has_changed(small, tmp_path):
    compare(small(policies=mine(1.0), rounds=8), tmp_path)
    replay = replay_of(tmp_path, "test_mine")
    assert replay.differences() == []
    replay.to(5)
    mine(0.5)
    with pytest.raises(DifferentRunError, match=r"in round 1 accuracy [\d.]+ was recorded, and now it is 0"):
        replay.to(5)


def mine(factor):
    aggregation.register("test_mine", lambda: lambda gradients: factor * gradients.mean(-2))
    return "test_mine"


def test_what_has_changed_is_told(folder):
    replay = replay_of(folder, "krum")
    assert replay.differences() == []
    replay.configuration["code"] = "0.0.1+abc"
    replay.recorded["versions"] = '{"torch": "1.0", "numpy": "1.0"}'
    assert [line.split(" was ")[0] for line in replay.differences()] == ["code", "torch", "numpy"]
    replay.configuration["files"] = {"rule test_gone": "0"}
    with pytest.raises(ValueError, match="played with rule test_gone, which is missing here: import"):
        replay.differences()


@pytest.mark.parametrize("column", ["credits", "byzantine"])
def test_one_credit_that_differs_is_found(folder, column):
    replay = replay_of(folder, "krum")
    trace = {name: values.copy() for name, values in replay._trace.items()}
    trace[column][6, 0] = ~trace[column][6, 0] if column == "byzantine" else 0.25
    replay._trace = trace
    assert pack(trace)
    replay.to(6)
    with pytest.raises(DifferentRunError, match=f"in round 7 {column}"):
        replay.to(7)


def test_a_model_is_written_whole(folder, tmp_path):
    replay = replay_of(folder, "krum")
    state, path = replay.to(4), tmp_path / "model.safetensors"
    replay.save(state, path, otherwise="no")
    with safe_open(path, "pt") as file:
        assert file.metadata()["key"] == replay.key
        assert (file.metadata()["round"], file.metadata()["otherwise"]) == ("4", "no")
        held = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    task = tasks.make("synthetic")
    model = tasks.models.build(task.model, task.input_shape, task.num_classes, generator=torch.Generator())
    model.load_state_dict(held)
    x, y = task.test
    accuracy = (model(x).argmax(1) == y).float().mean().item()
    assert accuracy == pytest.approx(state.accuracy, abs=1e-6)


def test_every_setting_survives(tmp_path):
    comparison = Comparison(
        task="synthetic",
        policies="nnm+krum",
        attacks=("alie", "backdoor:target=1"),
        num_byzantine=2,
        rounds=6,
        seeds=2,
        first_seed=5,
        roles="randomized:period=2",
        partition="dirichlet:alpha=0.5",
        batch_size=7,
        local_steps=2,
        learning_rate={"initial": 0.1, "schedule": "cosine"},
        momentum=0.5,
        worker_momentum=0.9,
        qv_size=5,
        qv_period=2,
        num_servers=2,
    )
    compare(comparison, tmp_path)
    replay = replay_of(tmp_path, "nnm+krum", attack="alie", seed=6)
    assert replay.differences() == []
    assert replay.to(6).qv_loss == replay.recorded["qv_loss"]
