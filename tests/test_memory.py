"""What is kept from round to round."""

from __future__ import annotations

import pytest
import torch

from byzgym.memory import Memory


def test_zeros_before_the_first_write():
    memory = Memory(3)
    assert torch.equal(memory.read("a", 2, 4), torch.zeros(3, 2, 4))
    assert memory.read("a", dtype=torch.bool).tolist() == [False] * 3


def test_values_are_copied_in_and_out():
    memory, values = Memory(2), torch.ones(2, 3, requires_grad=True)
    memory.write("a", 2 * values)
    memory.read("a", 3).zero_()
    assert torch.equal(memory.read("a", 3), torch.full((2, 3), 2.0))
    written = torch.ones(2, 3)
    memory.write("a", written)
    written.zero_()
    assert memory.read("a", 3).all()
    assert not memory.read("a", 3).requires_grad


def test_a_part_reads_and_writes_the_whole():
    memory = Memory(4)
    part = memory.of(torch.tensor([3, 1]))
    part.write("a", torch.tensor([30.0, 10.0]))
    assert memory.read("a").tolist() == [0, 10, 0, 30]
    memory.write("b", torch.arange(4))
    assert part.read("b", dtype=torch.int64).tolist() == [3, 1]
    part.of([1]).write("b", torch.tensor([7]))
    assert memory.read("b", dtype=torch.int64).tolist() == [0, 7, 2, 3]
    assert memory.of(torch.tensor([False, True, True, False])).read("a").tolist() == [10, 0]
    assert memory.of([]).read("a").shape == (0,)


def test_a_section_meets_no_other_names():
    memory = Memory(3)
    one, other = memory.section("one"), memory.section("other")
    for number, each in enumerate((memory, one, other, one.section("one"))):
        each.write("a", torch.full((3,), number + 1.0))
    one.of([2]).write("a", torch.tensor([7.0]))
    assert one.read("a").tolist() == [2, 2, 7]
    first = {name: values[0].item() for name, values in memory.state().items()}
    assert first == {"a": 1, "one/a": 2, "other/a": 3, "one/one/a": 4}
    assert one.state().keys() == {"a", "one/a"}
    other.load({"b": torch.ones(3)})
    one.reset([0])
    assert memory.state().keys() == {"a", "one/a", "one/one/a", "other/b"}
    assert one.read("a").tolist() == [0, 2, 7]
    one.reset()
    assert memory.state().keys() == {"a", "other/b"}


def test_reset_of_some_and_of_all():
    memory = Memory(3)
    memory.write("a", torch.tensor([1.0, 2.0, 3.0]))
    memory.reset([0])
    assert memory.read("a").tolist() == [0, 2, 3]
    memory.of([0, 1]).reset()
    assert memory.read("a").tolist() == [0, 0, 3]
    memory.reset()
    memory.write("a", torch.ones(3, 2, dtype=torch.bool))  # another shape and type: the old is forgotten
    assert memory.read("a", 2, dtype=torch.bool).all()


def test_state_and_load():
    memory = Memory(2)
    memory.write("a", torch.tensor([1.0, 2.0]))
    state = memory.state()
    memory.write("a", torch.zeros(2))
    memory.write("b", torch.ones(2, 5))
    memory.load(state)
    assert memory.state().keys() == {"a"}
    assert memory.read("a").tolist() == [1, 2]
    memory.write("a", torch.zeros(2))
    assert state["a"].tolist() == [1, 2]


@pytest.mark.parametrize(
    "values",
    [
        torch.ones(3, 5),
        torch.ones(3, 4).long(),
        torch.ones(2, 4),
        torch.tensor(1.0),
        [1, 2, 3],
        torch.eye(3).to_sparse(),
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused_by_name(values):
    memory = Memory(3)
    memory.write("centre", torch.ones(3, 4))
    with pytest.raises((TypeError, ValueError), match="'centre'"):
        memory.write("centre", values)


def test_another_shape_or_type_is_not_read():
    memory = Memory(3)
    memory.write("centre", torch.ones(3, 4))
    for shape, dtype in (((), torch.float32), ((4,), torch.int64)):
        with pytest.raises((TypeError, ValueError), match="'centre' holds"):
            memory.read("centre", *shape, dtype=dtype)


def test_what_is_written_in_inference_mode_can_be_written_again():
    memory = Memory(2)
    with torch.inference_mode():
        memory.write("seen", torch.ones(2))
    memory.write("seen", torch.tensor([2.0, 3.0]))
    assert memory.read("seen").tolist() == [2, 3]
    memory.reset([0])
    assert memory.read("seen").tolist() == [0, 3]


def test_a_round_reads_what_earlier_rounds_have_written():
    memory = Memory(3)
    rounds = torch.tensor([0, 0, 5])
    assert memory.at(rounds).read("count").tolist() == [0, 0, 0]
    for _ in range(3):  # asked three times in one round
        memory.at(rounds).write("count", memory.at(rounds).read("count") + 1)
    assert memory.read("count").tolist() == [1, 1, 1]
    assert memory.at(rounds).read("count").tolist() == [0, 0, 0]
    later = torch.tensor([1, 0, 7])  # the second environment is still in its round
    assert memory.at(later).read("count").tolist() == [1, 0, 1]
    memory.at(later).write("count", memory.at(later).read("count") + 10)
    assert memory.read("count").tolist() == [11, 10, 11]
    assert memory.at(later).read("count").tolist() == [1, 0, 1]
    assert memory.at(later + 1).read("count").tolist() == [11, 10, 11]
    assert memory.at(later).of([2, 0]).read("count").tolist() == [1, 1]


def test_a_round_of_some_workers():
    memory, first, second = Memory(1), torch.tensor([[3, 1]]), torch.tensor([[1, 2]])
    for round, workers in ((0, first), (0, first), (1, second), (1, second)):
        part = memory.at(torch.tensor([round]))
        part.write_of(workers, 4, "times", part.read_of(workers, 4, "times") + 1)
    assert memory.read("times", 4).tolist() == [[0, 2, 1, 1]]


def test_a_round_begins_anew_after_a_reset_and_a_restored_state():
    memory, now = Memory(2), torch.tensor([3, 3])
    memory.at(now).write("count", torch.tensor([4.0, 5.0]))
    state = memory.state()
    memory.reset([0])
    assert memory.at(now).read("count").tolist() == [0, 0]
    assert memory.at(now + 1).read("count").tolist() == [0, 5]
    other = Memory(2)
    other.load(state)
    assert other.at(now).read("count").tolist() == [0, 0]
    assert other.at(now + 1).read("count").tolist() == [4, 5]
