"""The Gymnasium environment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.error import ResetNeeded
from torch import Tensor

from byzgym.aggregation import ServerView
from byzgym.envs.core import Core, pick
from byzgym.envs.rendering import History, Renderer
from byzgym.simulation import Simulation
from byzgym.simulation.settings import DEFAULT_ATTACKS


class ByzantineAggregationEnv(gym.Env[Any, np.ndarray]):
    """Credit the workers of a distributed training run, some of which are Byzantine.

    ## Description
    A server trains a model with n workers. Every round each worker submits a gradient computed on a batch of
    its own data; an unknown part of the workers is Byzantine and submits what its attack says. The agent
    answers with one credit per worker, and the server makes the step
    theta <- theta - lr * sum_i credit_i V_i (Pan et al., "Justinian's GAAvernor: Robust Distributed Learning
    with Gradient Aggregation Agent", USENIX Security 2020). The agent is rewarded by the loss on a few
    quasi-validation (QV) samples that the server holds.

    The default is the case the environment is about: the digits data, 10 workers, 7 of them Byzantine,
    which ones and which attack (gaussian, sign_flip, ipm, alie or random) being drawn anew at each reset.

    ## Action Space
    `Box(0, 1, (n,), float32)`: the credits. They are divided by their sum; a vector on the simplex passes
    unchanged, and all zero means uniform. Any finite vector without negative entries is accepted. With
    `action="null_slot"` there is one more entry, last, for the zero vector, so that the workers' credits
    may sum to less than one. Rejected submissions (below) get no credit.

    ## Observation Space
    `observation="pooled"` (default): `Box(-100, 100, (n + 1, pool_size), float32)`. A row per worker with its
    received gradient, and last the server's own gradient on the QV set; in units of the root mean square
    entry of the submission of median norm (of those that are not zero), averaged over `pool_size` contiguous
    blocks of coordinates, and compressed by sign(v) log(1 + |v|). A list of parts, or "all", gives
    a `Dict` of:

    | part | shape | content |
    | --- | --- | --- |
    | `pooled` | (n + 1, pool_size) | as above |
    | `gradients` | (n, d) | the received gradients, sign(v) log(1 + abs(v)) of each entry |
    | `norms` | (n,) | log(1 + norm) of the received gradients |
    | `similarity` | (n, n) | cosines between the received gradients |
    | `trust` | (n,) | cosines with the server's own gradient on the QV set |
    | `credits` | (n,) | the credits of the last round |
    | `loss` | (1,) | log(1 + QV loss) |
    | `progress` | (1,) | round / rounds |

    With secure groups of g workers there are n / g rows (and credits) instead of n.

    ## Rewards
    (L(theta_t) - L(theta_{t+1})) / L(theta_t), L being the QV loss, not less than -10. A round in which the
    run diverges is rewarded with -10.

    ## Starting State
    A freshly initialised model. Drawn anew: which workers are Byzantine (and how many, for a range), the
    attack (from a list), the workers' shares of the data, the QV set.

    ## Episode End
    Termination: the run diverges, that is, the parameters would not stay finite, or the QV loss exceeds 1000
    times its value at the start. Truncation: after `rounds` rounds. (Where `gymnasium.make` is told
    `max_episode_steps`, a wrapper truncates, and the last `info` of an episode that it makes shorter than
    `rounds` has no test metrics.)

    ## Information
    `credits` (n,) that were applied (NaN where a vector from `use_update` was); `qv_loss` after the step;
    `byzantine` (n,), the workers that were Byzantine in this round; `rejected` (n,), the submissions with a
    non-finite entry; `update_norm`; `diverged`; and at the end of an episode and every `evaluate_every`
    rounds `accuracy`, `top3_accuracy` and `test_loss` on test data. Byzantine masks and test metrics are for
    evaluation only: they are in no observation and no reward. With secure groups of g workers the arrays have
    n / g entries: groups with a Byzantine worker in them, and means with a non-finite entry. Which attack was
    drawn, `env.unwrapped.simulation.attack_names` says (for evaluation, too).

    ## Arguments
    | argument | default | meaning |
    | --- | --- | --- |
    | `task` | "digits" | a name from `byzgym.tasks.names()`, or a mapping with the name and its parameters |
    | `model` | the task's | "softmax", "mlp:128,128", "xie_mlp", "xie_cnn", "lenet", or a registered one |
    | `num_workers` | 10 | n |
    | `num_byzantine` | 7 | f < n, or (low, high) between which it is drawn at each reset |
    | `attack` | five, see above | a name, a mapping with its parameters, or a list drawn from at each reset |
    | `roles` | "static" | who attacks when; a name or a mapping with its parameters |
    | `partition` | "iid" | how the data are divided; a name or a mapping with its parameters |
    | `batch_size` | the task's | samples per worker and round |
    | `learning_rate` | the task's | a number, or a mapping with `initial`, `schedule` and its parameters |
    | `momentum` | 0 | of the server |
    | `worker_momentum` | 0 | of every worker |
    | `qv_size` | 10 | QV samples |
    | `qv_source` | "held_out" | where they come from; a name or a mapping with its parameters |
    | `observation` | "pooled" | a part, a list of parts, or "all" |
    | `pool_size` | `None` | blocks of the pooled observation; 32, or d where that is less, if `None` |
    | `action` | "credits" | or "null_slot" |
    | `secure_group_size` | 1 | g; the server sees only means over groups of g workers |
    | `rounds` | 100 | length of an episode |
    | `evaluate_every` | None | rounds between evaluations on test data |
    | `device` | "cpu" | a torch device |
    | `render_mode` | None | "ansi", "rgb_array" or "human" |

    ## Version History
    * v0: first version.
    """

    metadata = {"render_modes": ["ansi", "rgb_array", "human"], "render_fps": 10}  # noqa: RUF012

    def __init__(
        self,
        task: str | Mapping[str, Any] = "digits",
        model: str | None = None,
        num_workers: int = 10,
        num_byzantine: int | Sequence[int] = 7,
        attack: str | Mapping[str, Any] | Sequence[str | Mapping[str, Any]] = DEFAULT_ATTACKS,
        roles: str | Mapping[str, Any] = "static",
        partition: str | Mapping[str, Any] = "iid",
        batch_size: int | None = None,
        learning_rate: float | Mapping[str, Any] | None = None,
        momentum: float = 0.0,
        worker_momentum: float = 0.0,
        qv_size: int = 10,
        qv_source: str | Mapping[str, Any] = "held_out",
        observation: str | Sequence[str] = "pooled",
        pool_size: int | None = None,
        action: str = "credits",
        secure_group_size: int = 1,
        rounds: int = 100,
        evaluate_every: int | None = None,
        device: str = "cpu",
        render_mode: str | None = None,
    ) -> None:
        """Build the environment; see the class for the arguments.

        Raises:
            ValueError: If a value is not allowed; the message names argument, value and what is allowed.
            TypeError: If a parameter in a mapping does not exist.
        """
        if render_mode is not None and render_mode not in self.metadata["render_modes"]:
            raise ValueError(
                f"render_mode must be None or one of {self.metadata['render_modes']}, got {render_mode!r}"
            )
        self.render_mode = render_mode
        self._core = Core(
            1,
            observation,
            pool_size,
            action,
            evaluate_every,
            {
                "task": task,
                "model": model,
                "num_workers": num_workers,
                "num_byzantine": num_byzantine,
                "attack": attack,
                "roles": roles,
                "partition": partition,
                "batch_size": batch_size,
                "learning_rate": learning_rate,
                "momentum": momentum,
                "worker_momentum": worker_momentum,
                "qv_size": qv_size,
                "qv_source": qv_source,
                "secure_group_size": secure_group_size,
                "rounds": rounds,
                "device": device,
            },
        )
        self.observation_space = self._core.observations.space
        self.action_space = self._core.actions.space
        self._begun = False
        self._history = History()
        self._renderer = Renderer(render_mode) if render_mode else None

    @property
    def simulation(self) -> Simulation:
        """The simulation underneath, E = 1. For evaluation and reference controls, not for agents."""
        return self._core.simulation

    @property
    def view(self) -> ServerView:
        """What the server knows in this round, E = 1: all that an agent may use."""
        return self._core.simulation.view

    def use_update(self, update: Tensor, credits: Tensor | None = None) -> None:
        """Let the next step apply the vector ``update`` [1, d], if its action is all zero.

        Rules that no credit vector can express act this way; see `byzgym.wrappers.RuleSelection`. Where there
        are credits [1, rows] that made it, `info` and the next observation show these.
        """
        self._core.use_update(update, credits)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin a new episode. ``options`` has no effect."""
        super().reset(seed=seed)
        self._core.reset([self.np_random])
        self._begun = True
        info = pick(self._core.reset_info(), 0)
        if self._renderer:
            self._history = History()
            self._record(info, 0.0)
        return self._observation(), info

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Play one round with these credits.

        Raises:
            ValueError: If the action has the wrong shape or an entry negative, NaN or infinite.
            ResetNeeded: If no episode has begun.
        """
        if not self._begun:
            raise ResetNeeded("call reset() before the first step()")
        outcome = self._core.step(self._core.array(action)[None])
        info = pick(outcome.info, 0)
        if outcome.evaluated[0]:
            info |= pick(outcome.metrics, 0)
        reward = float(outcome.rewards[0])
        if self._renderer:
            self._record(info, reward)
        return self._observation(), reward, bool(outcome.terminated[0]), bool(outcome.truncated[0]), info

    def render(self) -> Any:
        """A frame: text for "ansi", an array (height, width, 3) for "rgb_array", None for "human"."""
        if self._renderer is None:
            gym.logger.warn("render() was called without a render_mode; pass one to gym.make")
            return None
        return self._renderer.draw(self._history)

    def close(self) -> None:
        """Close the window, if there is one."""
        if self._renderer:
            self._renderer.close()

    def _observation(self) -> Any:
        built = self._core.observe()
        if isinstance(built, dict):
            return {name: value[0] for name, value in built.items()}
        return built[0]

    def _record(self, info: dict[str, Any], reward: float) -> None:
        accuracy = info["accuracy"] if "accuracy" in info else float(self._core.metrics()["accuracy"][0])
        self._history.add(info, reward, accuracy)
        if self.render_mode == "human" and self._renderer:
            self._renderer.draw(self._history)
