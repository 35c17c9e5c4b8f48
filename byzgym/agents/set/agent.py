"""The set aggregator as an agent."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import torch
from safetensors.torch import load_file
from torch import Tensor

from byzgym.agents.base import Agent
from byzgym.agents.registry import registry
from byzgym.agents.set.features import observe, remember, shapes
from byzgym.agents.set.network import SetNetwork
from byzgym.aggregation import Decision, ServerView
from byzgym.ambient import seeded, shielded
from byzgym.numerics.sketch import Sketch
from byzgym.validation import check_bool

PRETRAINED = Path(__file__).with_name("pretrained.safetensors")
SKETCH_SIZE = 2048
"""Submissions are compared by sketches of this length: cosines are then right to about 0.02."""
OF_WORKERS = ("long", "longer", "credits", "mean_credits", "hidden", "ages")
"""Parts of the state with a row for each worker, and so has "rows", along its second axis."""


@registry.built_in("set")
class SetAggregator(Agent):
    """A learned aggregator that knows workers only by what they submit.

    One small network looks at every worker in the same way: at how its submissions, and two momenta of them,
    agree with the quasi-validation (QV) gradient, with single QV samples and their label contrasts, with
    accepted updates and with the other workers; it remembers each worker and lets workers attend to each
    other. It is not told f, the attack or anybody's identity, so it works for any number n of workers, any
    model and any task without being trained again.

    It was trained by ``agents/set.py`` on simulated attacks; the file CARD.md beside the weights says on
    which, and what it reaches on others. It needs a view with a QV loss and a memory. Single QV samples'
    gradients (``qv_per_sample``) make it better and are not needed.

    Args:
        pretrained: Whether to load the weights that are in the package. Without them credits say how surely
            a worker's submissions agree with the QV samples and with their label contrasts.

    Raises:
        ValueError: If ``pretrained`` is not a bool.

    Example:
        Nine of ten workers submit reversed gradients.

        >>> from byzgym import agents
        >>> from byzgym.simulation import Simulation
        >>> simulation = Simulation.make(seed=0, num_byzantine=9, attack="ipm")
        >>> agent = agents.build("set", simulation)
        >>> for _ in range(50):
        ...     simulation.apply(agent.decide(simulation.view))
        >>> bool(simulation.previous_credits[simulation.byzantine].sum() < 0.1)
        True
    """

    needs: ClassVar[frozenset[str]] = frozenset({"memory", "qv"})

    @shielded
    def __init__(self, pretrained: bool = True) -> None:
        with seeded(torch.Generator().manual_seed(0)):
            self.network = SetNetwork().eval()
        self.pretrained = check_bool("pretrained", pretrained)
        if self.pretrained:
            self.network.load_state_dict(load_file(PRETRAINED))
        self.network.requires_grad_(False)
        self._sketch: Sketch | None = None

    @shielded
    def decide(self, view: ServerView) -> Decision:
        """See `Policy.decide`.

        Raises:
            ValueError: If the view has no memory or no QV loss.
        """
        if view.memory is None:
            raise ValueError(
                "set keeps a memory: build every ServerView with the same memory=Memory(num_envs)"
            )
        dimension = view.gradients.shape[2]
        if self._sketch is None or self._sketch.dimension != dimension:
            self._sketch = Sketch(dimension, SKETCH_SIZE, device=view.theta.device)
            self.network.to(view.theta.device)
        names = shapes(view.num_workers, self._sketch.size)
        before = {name: _read(view, name, shape) for name, shape in names.items()}
        features, state = observe(view, self._sketch, before)
        with torch.no_grad():
            result = self.network(features, state["hidden"])
        state = remember(state, result.credits, result.hidden)
        for name in names:
            _write(view, name, state[name])
        return Decision.from_credits(result.credits, view)

    def __repr__(self) -> str:
        return "SetAggregator" if self.pretrained else "SetAggregator(pretrained=False)"


def _read(view: ServerView, name: str, shape: tuple[int, ...]) -> Tensor:
    """A part of the state, [E, *shape]: what concerns a worker is kept by its number."""
    assert view.memory is not None
    if name == "rows":
        return view.recall("set.rows", shape[0], shape[2]).transpose(1, 2).contiguous()
    if name in OF_WORKERS:
        return view.recall(f"set.{name}", *shape[1:])
    return view.memory.read(f"set.{name}", *shape)


def _write(view: ServerView, name: str, values: Tensor) -> None:
    """Keep a part of the state; see `_read`."""
    assert view.memory is not None
    if name == "rows":
        view.keep("set.rows", values.transpose(1, 2))
    elif name in OF_WORKERS:
        view.keep(f"set.{name}", values)
    else:
        view.memory.write(f"set.{name}", values)
