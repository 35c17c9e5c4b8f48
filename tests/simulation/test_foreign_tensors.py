"""What somebody's code writes into its arguments, or hands back, spoils nothing."""

import pytest
import torch
from simulation_cases import make

from byzgym import attacks, tasks


@pytest.mark.parametrize("others", [[], ["none"]], ids=["alone", "beside another"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("base", [attacks.Attack, attacks.DataPoisoning])
def test_a_transmission_attack_may_return_what_it_was_given(base, dtype, others):
    class Lazy(base):
        scope = "transmission"

        def poison(self, x, y, byzantine, context):
            return x, y

        def corrupt(self, gradients, byzantine, context):
            sent.append(gradients.clone())
            return gradients.to(dtype)

    sent = []
    attacks.register("test_lazy", Lazy)
    simulation = make(8, attack=["test_lazy", *others])
    lazy = simulation.workers.attack_of == 0
    assert torch.equal(simulation.gradients[lazy], sent[-1])
    assert sent[-1].any()


def test_writing_into_the_labels_given_to_a_partition_spoils_nothing():
    def partition(labels, num_workers, generator):
        size = len(labels) // num_workers
        labels.zero_()
        shares = torch.arange(num_workers * size).view(num_workers, size)
        return shares, torch.full((num_workers,), size)

    tasks.partitions.register("test_writing", lambda: partition)
    before = tasks.make("digits").train[1].clone()
    assert torch.equal(make(task="digits", partition="test_writing").setup.task.train[1], before)


def test_a_qv_source_that_writes_into_the_task_is_refused():
    def source(task, qv_size, generator):
        x, y = (samples[:qv_size] for samples in task.held_out)
        return x.add_(1), y

    tasks.quasi_validation.register("test_writing", lambda: source)
    with pytest.raises(ValueError, match=r"qv_source <function.*must not write into the task"):
        make(qv_source="test_writing")


def test_writing_into_the_mask_given_to_a_data_poisoning_poisons_nobody_else():
    class Writing(attacks.DataPoisoning):
        def poison(self, x, y, byzantine, context):
            byzantine.fill_(True)
            return x * 0, y

    attacks.register("test_writing", Writing)
    poisoned, honest = make(attack="test_writing"), make(attack="none")
    changed = (poisoned.gradients != honest.gradients).any(2)
    assert torch.equal(changed, poisoned.byzantine)


def test_a_data_poisoning_gets_all_batches_whatever_it_says_of_gradients():
    class Unread(attacks.DataPoisoning):
        reads_own = False

        def poison(self, x, y, byzantine, context):
            return x * 0, y

    attacks.register("test_unread", Unread)
    assert make(attack="test_unread", model="mlp:2000").gradients.shape[1] == 6
