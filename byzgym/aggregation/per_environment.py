"""Several rules at work side by side: each of E environments is aggregated by one of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor


class RulePerEnvironment:
    """A rule for each of E environments, as one callable; attacks that know the server's rule are shown it.

    Args:
        rules: Callables ``gradients -> vector``.
        numbers: Which of them environment e uses, int64, shape [E].
    """

    def __init__(self, rules: Sequence[Callable[[Tensor], Tensor]], numbers: Tensor) -> None:
        self.rules = list(rules)
        self.numbers = numbers.clone()  # [E]

    def __call__(self, gradients: Tensor) -> Tensor:
        """Aggregate submissions [E, ..., n, d] to vectors [E, ..., d]."""
        if gradients.dim() < 3 or len(gradients) != len(self.numbers):
            raise ValueError(
                f"gradients must have shape [{len(self.numbers)}, ..., n, d], got {list(gradients.shape)}"
            )
        out = gradients.new_empty(gradients.shape[:-2] + gradients.shape[-1:])
        for number in self.numbers.unique().tolist():
            envs = (self.numbers == number).nonzero()[:, 0]
            out[envs] = self.rules[number](gradients[envs]).to(out)
        return out

    def of(self, envs: Sequence[int] | Tensor) -> RulePerEnvironment:
        """The rules of some environments."""
        return RulePerEnvironment(self.rules, self.numbers[envs])
