import pytest
import torch
from torch import nn

from byzgym.integrations.sb3.networks import SetLSTM, SetNetwork, SetValue

pytestmark = pytest.mark.global_rng


def test_features_of_the_round_are_used():
    torch.manual_seed(0)
    network, features = SetNetwork(4, 3, 2, [8, 8], nn.Tanh), torch.randn(1, 4 * 3 + 2)
    changed = features.clone()
    changed[:, -2:] += 1
    for before, after in zip(network(features), network(changed), strict=True):
        assert not torch.allclose(before, after)


@pytest.mark.parametrize("null_slot", [False, True])
def test_a_value_knows_the_actions_and_not_the_order_of_workers(null_slot):
    torch.manual_seed(0)
    actions = 4 + null_slot
    network = SetValue(4, 3, 2, actions, [8, 8], nn.Tanh, beta=5.0)
    rows, whole, acted = torch.randn(1, 4, 3), torch.randn(1, 2), torch.rand(1, actions)

    def value(rows, whole, acted):
        return network(torch.cat([rows.flatten(1), whole, acted], 1)).item()

    expected = value(rows, whole, acted)
    order = [2, 0, 3, 1]
    assert value(rows[:, order], whole, acted[:, [*order, 4][:actions]]) == pytest.approx(expected, abs=1e-6)
    assert abs(value(rows[:, order], whole, acted) - expected) > 1e-4
    for given in ((rows + 1, whole, acted), (rows, whole + 1, acted), (rows, whole, acted.flip(1))):
        assert abs(value(*given) - expected) > 1e-4


def test_a_memory_is_that_of_an_lstm_on_each_worker_alone():
    torch.manual_seed(0)
    rows, row_dim, hidden, length, count = 3, 2, 4, 5, 2
    network = SetLSTM(rows, row_dim, 1, hidden)
    sequence = torch.randn(length, count, rows * row_dim + 1)
    states = tuple(torch.randn(1, count, rows * hidden) for _ in range(2))
    output, after = network(sequence, states)
    assert (network.input_size, network.hidden_size) == (sequence.shape[2], states[0].shape[2])
    assert output.shape == (length, count, rows * (row_dim + hidden) + 1)
    torch.testing.assert_close(output[..., -1], sequence[..., -1])
    for env in range(count):
        for worker in range(rows):
            seen = sequence[:, env, worker * row_dim : (worker + 1) * row_dim]
            own = slice(worker * hidden, (worker + 1) * hidden)
            before = tuple(state[:, env, own] for state in states)
            memory, expected = network.lstm(seen, before)  # an LSTM takes sequences [T, F], too
            start = worker * (row_dim + hidden)
            found = output[:, env, start : start + row_dim + hidden]
            torch.testing.assert_close(found, torch.cat([seen, memory], 1))
            for state, wanted in zip(after, expected, strict=True):
                torch.testing.assert_close(state[:, env, own], wanted)
