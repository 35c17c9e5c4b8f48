import multiprocessing
import random
import threading
from concurrent.futures import ThreadPoolExecutor

import gymnasium as gym
import numpy as np
import pytest
import torch

import byzgym  # noqa: F401  registers the environment
from byzgym.ambient import seeded, shielded, without_autocast

TINY = {"task": "digits", "num_workers": 3, "num_byzantine": 1, "batch_size": 2, "attack": "ipm"}


def states():
    numpy_state = np.random.get_state()  # noqa: NPY002
    return torch.get_rng_state().tolist(), numpy_state[1].tolist(), numpy_state[2:], random.getstate()


def draws():
    return torch.rand(2).tolist(), np.random.rand(2).tolist(), random.random()  # noqa: NPY002


def test_generators_are_lent_and_put_back():
    before = states()
    drawn = []
    for _ in range(2):
        with seeded(torch.Generator().manual_seed(5)):
            drawn.append(draws())
    with seeded(torch.Generator().manual_seed(6)):
        assert draws() != drawn[0]
    with pytest.raises(ZeroDivisionError), seeded(torch.Generator()):
        draws()[0][0] / 0
    assert drawn[0] == drawn[1]
    assert states() == before


@pytest.mark.parametrize(
    "draw",
    [
        lambda: torch.rand(1),
        np.random.rand,
        lambda: np.random.rand(624),  # noqa: NPY002
        random.random,
    ],
)
def test_draws_are_noticed(draw):
    with seeded(torch.Generator()) as drawn:
        assert not drawn()
        draw()
        assert drawn()


def test_other_threads_wait():
    entered = threading.Event()

    def enter():
        with seeded(torch.Generator()):
            entered.set()

    with seeded(torch.Generator()):
        thread = threading.Thread(target=enter)
        thread.start()
        assert not entered.wait(0.2)
    assert entered.wait(10)
    thread.join()


@pytest.mark.parametrize(
    "mode",
    [
        torch.inference_mode(),
        torch.no_grad(),
        torch.autocast("cpu", dtype=torch.bfloat16),
        torch.device("meta"),
    ],
    ids=["inference", "no_grad", "autocast", "device"],
)
def test_modes_are_kept_out(mode):
    @shielded
    def product():
        assert shielded(torch.is_grad_enabled)()
        return torch.eye(2, requires_grad=True) @ torch.eye(2)

    with mode:
        made = product()
    assert made.requires_grad
    assert not made.is_inference()
    assert (made.dtype, made.device.type) == (torch.float32, "cpu")


def test_no_mode_that_slows_every_call_is_entered():
    inside = shielded(torch._C._len_torch_function_stack)
    with torch.no_grad():
        assert inside() == 0
    with torch.inference_mode():
        assert inside() == 0


def test_the_default_device_is_kept_out():
    torch.set_default_device("meta")
    try:
        assert shielded(torch.zeros)(2).device.type == "cpu"
        assert torch.zeros(2).device.type == "meta"
    finally:
        torch.set_default_device(None)


def test_rules_keep_the_callers_other_modes():
    with torch.inference_mode(), torch.autocast("cpu"):
        made = without_autocast(torch.matmul)(torch.eye(2), torch.eye(2))
    assert made.is_inference()
    assert made.dtype == torch.float32


def play(seed, **arguments):
    env = gym.make("ByzantineAggregation-v0", **TINY, **arguments)
    first, _ = env.reset(seed=seed)
    return np.stack([first, env.step(np.ones(3, np.float32))[0]])


def test_environments_in_threads():
    """Eight at once draw what they draw alone, though their dropout uses the global generator."""
    expected = [play(seed, model="xie_cnn") for seed in range(8)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda seed: play(seed, model="xie_cnn"), range(8)))
    assert np.array_equal(found, expected)


@pytest.fixture
def two_threads():
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork")
@pytest.mark.filterwarnings("ignore:.* use of fork:DeprecationWarning")
def test_forked_processes_do_not_hang(two_threads):
    torch.ones(300, 300) @ torch.ones(300, 300)  # starts torch's threads
    expected = play(0, model="mlp:512")
    with multiprocessing.get_context("fork").Pool(1) as pool:
        found = pool.apply_async(play, (0,), {"model": "mlp:512"}).get(60)
        assert pool.apply(torch.get_num_threads) == 1
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
