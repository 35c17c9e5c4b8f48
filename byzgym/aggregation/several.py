"""Several rules at work side by side: each of E runs (environments) is aggregated by one of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from torch import Tensor


class RuleOfEach:
    """A rule for each of E runs, as one callable.

    Args:
        rules: Callables ``gradients -> vector``.
        numbers: Which of them run e uses, int64, shape [E].
    """

    def __init__(self, rules: Sequence[Callable[[Tensor], Tensor]], numbers: Tensor) -> None:
        self.rules = list(rules)
        self.numbers = numbers.clone()  # [E]

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
            out[runs] = self.rules[number](gradients[runs]).to(out)
        return out

    def groups(self) -> Iterator[tuple[int, Tensor]]:
        """The numbers of the rules in use, each with the runs [m] that use it."""
        for number in self.numbers.unique().tolist():
            yield number, (self.numbers == number).nonzero()[:, 0]

    def of(self, runs: Sequence[int] | Tensor) -> RuleOfEach:
        """The rules of some runs."""
        return RuleOfEach(self.rules, self.numbers[runs])
