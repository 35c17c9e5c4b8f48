"""The classical rules as agents: they look at the submissions only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

from torch import Tensor

from byzgym import aggregation
from byzgym.agents.base import Agent
from byzgym.aggregation import NotLinearError, ServerView


class RuleAgent(Agent):
    """Aggregates with a rule.

    Args:
        rule: A name, a mapping with the name and parameters, or a rule.
        num_byzantine: The f that the rule is told. Lowered to the largest that the rule accepts for the
            number of submissions; where None, `bind` takes the environment's own f, and without an
            environment the rule gets the largest f that it accepts.
        parameters: Further parameters of a rule given by name.
    """

    def __init__(
        self,
        rule: str | dict[str, Any] | Callable[[Tensor], Tensor],
        num_byzantine: int | None = None,
        **parameters: Any,
    ) -> None:
        if parameters and not isinstance(rule, str):
            raise TypeError(f"parameters are for a rule given by name, got {parameters} for {rule!r}")
        self._spec = {"name": rule, **parameters} if isinstance(rule, str) else rule
        self._given = self._wanted = num_byzantine
        self.rule: Callable[[Tensor], Tensor] | None = None
        self._num_workers: int | None = None
        if isinstance(self._spec, dict):
            # Unknown names and parameters should fail here, not in the first round.
            probe = aggregation.make_within(self._spec, 1000, num_byzantine or 0)
        else:
            probe = self.rule = self._spec
        self.linear = bool(getattr(probe, "linear", False))

    @property
    def num_byzantine(self) -> int | None:
        """The f that the rule in use was given; None before the first round or where it takes none."""
        return getattr(self.rule, "num_byzantine", None)

    def bind(self, env: Any) -> Self:
        """Attach to an environment; without a number of its own, the rule is told the environment's f."""
        super().bind(env)
        simulation = getattr(self._env, "simulation", None)
        self._wanted, self._num_workers = self._given, None
        if simulation is not None:
            if self._given is None:
                self._wanted = simulation.most_byzantine
            simulation.rule = self._rule_for(simulation.num_rows)
        return self

    def credits(self, view: ServerView) -> Tensor:
        """See `Agent.credits`."""
        rule = self._rule_for(view.num_workers)
        if not self.linear:
            raise NotLinearError(f"{rule!r} is not a weighted sum of the submissions, so it has no credits")
        return aggregation.credits_for_view(rule, view)

    def aggregate(self, view: ServerView) -> Tensor:
        """See `Agent.aggregate`."""
        return aggregation.apply_to_view(self._rule_for(view.num_workers), view)

    def _rule_for(self, num_workers: int) -> Any:
        if isinstance(self._spec, dict) and self._num_workers != num_workers:
            wanted = num_workers if self._wanted is None else self._wanted
            self.rule = aggregation.make_within(self._spec, num_workers, wanted)
            self._num_workers = num_workers
        return self.rule
