"""Several rules at work side by side: each of E runs (environments) is aggregated by one of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor


class RuleOfEach:
    """Which of several rules each of E runs uses; the first one until something else is chosen.

    Args:
        rules: Callables ``gradients -> vector``.
        num_runs: E.

    Attributes:
        numbers: The number of the rule of each run, int64, shape [E].
    """

    def __init__(self, rules: Sequence[Callable[[Tensor], Tensor]], num_runs: int) -> None:
        self.rules = list(rules)
        self.numbers = torch.zeros(num_runs, dtype=torch.int64)  # [E]

    def __call__(self, gradients: Tensor) -> Tensor:
        """Aggregate each run with its rule: submissions [E, ..., n, d] to vectors [E, ..., d].

        Raises:
            ValueError: If the first dimension is not E.
        """
        if gradients.dim() < 3 or len(gradients) != len(self.numbers):
            raise ValueError(
                f"gradients must be of shape [{len(self.numbers)}, ..., n, d], got {tuple(gradients.shape)}"
            )
        out = gradients.new_empty(gradients.shape[:-2] + gradients.shape[-1:])
        for number, runs in self.groups():
            runs = runs.to(gradients.device)
            out[runs] = self.rules[number](gradients[runs]).to(out)
        return out

    def groups(self) -> Iterator[tuple[int, Tensor]]:
        """The numbers of the rules in use, each with the runs [m] that use it."""
        for number in self.numbers.unique().tolist():
            yield number, (self.numbers == number).nonzero()[:, 0]

    def of(self, runs: Sequence[int] | Tensor | None) -> RuleOfEach:
        """A copy, of some runs (all where None)."""
        copy = RuleOfEach(self.rules, 0)
        copy.numbers = (
            self.numbers[torch.as_tensor(runs, device="cpu")] if runs is not None else self.numbers.clone()
        )
        return copy

    def restart(self, runs: Sequence[int]) -> None:
        """Go back to the first rule in some runs."""
        self.numbers[list(runs)] = 0
