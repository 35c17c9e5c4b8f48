"""The Gymnasium environment."""

from __future__ import annotations

import inspect
from dataclasses import fields
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.error import ResetNeeded

from byzgym.envs.actions import as_array
from byzgym.envs.config import EnvConfig
from byzgym.envs.core import Core, Shell, pick, row
from byzgym.envs.rendering import History, Renderer
from byzgym.validation import with_notes


class ByzantineAggregationEnv(Shell, gym.Env[Any, np.ndarray]):
    """Credit the workers of a distributed training run, some of which are Byzantine.

    ## Description
    A server trains a model with n workers. Every round each worker submits a gradient computed on a batch of
    its own data; an unknown part of the workers is Byzantine and submits what its attack says. The agent
    answers with one credit per worker, and the server makes the step theta <- theta - lr * sum_i credit_i V_i
    (Pan et al., "Justinian's GAAvernor: Robust Distributed Learning with Gradient Aggregation Agent", USENIX
    Security 2020, https://www.usenix.org/conference/usenixsecurity20/presentation/pan). The agent is rewarded
    by the loss on a few quasi-validation (QV) samples that the server holds, or on further held-out samples
    that nobody else sees.

    The default is the hard case: the digits data, 10 workers, 7 of them Byzantine. Which ones and which
    attack (gaussian, sign_flip, ipm, alie or random) is drawn at each reset.

    ## Action Space
    | `action` | space | meaning |
    | --- | --- | --- |
    | "credits" (default) | `Box(0, 1, (n,))` | a credit per worker |
    | "null_slot" | `Box(0, 1, (n + 1,))` | a last entry more, for the zero vector |
    | "rule" | `Discrete(len(rules))` | the number of the rule in `rules` that aggregates this round |
    | "update" | `Box(-m, m, (d,))`, m the largest float32 | the update itself |

    Credits are divided by their sum; a vector on the simplex passes unchanged, and all zero means uniform.
    Any finite vector without negative entries is accepted. Rejected submissions (below) get no credit: theirs
    goes to the others, or to the null slot (with which credits may sum to less than 1). Rules without
    credits, such as the median, act through "update" or "rule".

    ## Observation Space
    `observation="pooled"` (default): `Box(-100, 100, (n + 1, pool_size), float32)`. A row per worker with its
    received gradient, and last the server's own gradient on the QV set. With `pooling="sketch"` (default),
    the coordinates get random signs, the same in all environments, and are summed in `pool_size` contiguous
    blocks (if these are longer than 1). Inner products and norms survive this but for noise.
    `pooling="blocks"` takes the means of the blocks. The unit is the root mean square entry of the submission
    of median norm (of those that are not zero), which for a sketch is this norm / sqrt(pool_size). Entries
    are compressed by sign(v) log(1 + |v|).

    A list of parts, or "all", gives a `Dict` of:

    | part | shape | content |
    | --- | --- | --- |
    | `pooled` | (n + 1, pool_size) | as above |
    | `gradients` | (n, d) | the received gradients, sign(v) log(1 + abs(v)) of each entry |
    | `norms` | (n,) | log(1 + norm) of the received gradients |
    | `relative_norms` | (n, 2) | log(norm / median norm) and log(norm / norm of the QV gradient), within 10 |
    | `similarity` | (n, n) | cosines between the received gradients |
    | `trust` | (n,) | cosines with the server's own gradient on the QV set |
    | `reputation` | (n,) | the running mean of the evidence in the rule `trust`, in [-1, 1] |
    | `history` | (n, 6) | running means over about 10, then about 33 rounds of three numbers, see below |
    | `credits` | (n,) | the credits of the last round that had any |
    | `loss` | (1,) | log(1 + QV loss) |
    | `age` | (1,) | 1 / sqrt(round + 1): how noisy the running means are |
    | `progress` | (1,) | round / rounds |

    The three numbers of `history` are the evidence of the rule `trust`, the cosine in the part `trust`, and
    the mean cosine with the other workers. The running means have the rates 0.1 and 0.03 and are corrected
    for their start at zero. With them a policy without memory can use all rounds so far. A rejected
    submission counts as zero in them, and is -10 in `relative_norms`.

    With secure groups of g workers there are n / g rows (and credits) instead of n.

    ## Rewards
    `reward_form="relative"` (default): (L(theta_t) - L(theta_{t+1})) / L(theta_t), from -10 to 1.
    `reward_form="log"`: log L(theta_t) - log L(theta_{t+1}), from -10 to 10. Its sum over an episode depends
    on the first and the last loss only, so a loss that rises and falls again earns nothing. A round in which
    the run diverges is rewarded with -10.

    L is the QV loss (default, and the paper's), or with `reward_size=N` the loss on N held-out samples, drawn
    anew at each reset. They are in no worker's share and not in the test set. The QV set is drawn from the
    held-out samples that are left, so they are not in it either. Only the reward depends on them: they are
    for training an agent that is deployed with the QV samples alone. `reward="held_out"` alone takes
    up to 128. Divergence (below) is about the QV loss in any case. Where `qv_period` has new QV
    samples drawn, both QV losses of a reward are on the old ones, with which the action was chosen; the next
    observation and `info["qv_loss"]` are of the new ones.

    ## Starting State
    A freshly initialised model. Drawn anew: which workers are Byzantine (and how many, for a range), the
    attack (from a list), the workers' shares of the data, the reward samples and the QV set.
    `reset(options={"attack": "ipm", "num_byzantine": 3})` sets the attack and f of this episode alone.

    ## Episode End
    Termination: the run diverges, that is, the parameters would not stay finite, or the QV loss exceeds 1000
    times its value at the start. Truncation: after `rounds` rounds. (Where `gymnasium.make` is told
    `max_episode_steps`, a wrapper truncates, and the last `info` of an episode that it makes shorter than
    `rounds` has no test metrics.)

    ## Information
    | key | content |
    | --- | --- |
    | `credits` | (n,), those that were applied; no such key in a round whose update has no credits |
    | `qv_loss` | after the step |
    | `byzantine` | (n,), the workers that were Byzantine in this round |
    | `rejected` | (n,), the submissions with a NaN or infinite entry |
    | `update_norm` | of the update |
    | `diverged` | whether the run has diverged |
    | `attack` | the attack of this episode |
    | `accuracy`, `top3_accuracy`, `test_loss` | on test data, at the end and every `evaluate_every` rounds |
    | `attack_success_rate` | beside these if the attack is a backdoor: how often its trigger works |

    Byzantine masks, the attack and test metrics are for evaluation only: they are in no observation and no
    reward. With secure groups the arrays have n / g entries: groups with a Byzantine worker in them, and
    means with an entry that is not finite.

    ## Arguments
    Wherever a name is accepted, so are its parameters, "ipm:epsilon=1.0" or {"name": "ipm", "epsilon": 1.0},
    and an object of the kind itself (the spec is then no longer JSON).

    | argument | default | meaning |
    | --- | --- | --- |
    | `task` | "digits" | a name from `byzgym.tasks.names()` |
    | `model` | the task's | "softmax", "mlp:128,128", "lenet", "resnet18" ..., or a registered one |
    | `num_workers` | 10 | n |
    | `cohort_size` | n | workers that take part in a round, drawn anew in each |
    | `num_byzantine` | 7 n / 10 | f < n, or (low, high) between which it is drawn at each reset |
    | `attack` | five, see above | a name, or a list drawn from at each reset |
    | `roles` | "static" | who attacks when |
    | `partition` | "iid" | how the workers share the data |
    | `batch_size` | the task's | samples of a worker's batch |
    | `local_steps` | 1 | steps of a worker in a round (FedAvg); it then submits the sum of its gradients |
    | `learning_rate` | the task's | a number, or a mapping with `initial`, `schedule` and its parameters |
    | `momentum` | 0 | of the server |
    | `worker_momentum` | 0 | of every worker |
    | `weight_decay` | 0 | multiple of the parameters that every worker adds to its gradient |
    | `qv_size` | 10 | QV samples |
    | `qv_source` | "held_out" | where they come from |
    | `qv_period` | none | rounds after which the server draws new ones |
    | `reward` | "qv"; "held_out" with a `reward_size` | samples on which the reward is computed |
    | `reward_size` | up to 128 | N, the number of held-out samples; an error with `reward="qv"` |
    | `reward_form` | "relative" | "relative" or "log", see above |
    | `observation` | "pooled" | a part, a list of parts, or "all" |
    | `pool_size` | 128, or d if that is less | length of a row of the pooled observation |
    | `pooling` | "sketch" | "sketch" or "blocks", see above |
    | `action` | "credits" | what an action is, see above |
    | `rules` | none | with `action="rule"`: what to choose from; each is told f, or the largest it accepts |
    | `num_servers` | 1 | 1 only; a comparison can divide the parameters among servers |
    | `secure_group_size` | 1 | g; the server sees only means over groups of g workers |
    | `rounds` | 100 | length of an episode |
    | `one_by_one` | where that is faster | workers' gradients are computed one after the other |
    | `evaluate_every` | none | rounds between evaluations on test data |
    | `device` | "cpu" | a torch device |
    | `render_mode` | none | "ansi", "rgb_array" or "human" |

    ## Version History
    * v0: first version.

    Example:
        >>> import gymnasium as gym, byzgym
        >>> env = gym.make("ByzantineAggregation-v0", attack="sign_flip", num_byzantine=3)
        >>> observation, info = env.reset(seed=0)
        >>> observation.shape, int(info["byzantine"].sum()), info["attack"]
        ((11, 128), 3, 'sign_flip')
        >>> observation, reward, terminated, truncated, info = env.step(env.action_space.sample())
        >>> round(float(info["credits"].sum()), 5)
        1.0
    """

    metadata = {"render_modes": ["ansi", "rgb_array", "human"], "render_fps": 10}  # noqa: RUF012

    def __init__(self, *, render_mode: str | None = None, **arguments: Any) -> None:
        """Build the environment; see the class for the arguments.

        Raises:
            ValueError: If a value is not allowed; the message names argument, value and what is allowed.
            TypeError: If an argument or a parameter does not exist.
        """
        if render_mode is not None and render_mode not in self.metadata["render_modes"]:
            raise ValueError(
                f"render_mode must be None or one of {self.metadata['render_modes']}, got {render_mode!r}"
            )
        self.render_mode = render_mode
        try:
            self._core = Core(1, arguments)
        except TypeError as error:
            # gymnasium.make raises another one with this text alone: the text must say whose it is.
            if not hasattr(error, "__notes__"):
                raise
            raise TypeError(with_notes(error)) from error
        self.observation_space = self._core.observations.space
        self.action_space = self._core.actions.space
        self._begun = False
        self._history = History()
        self._renderer = Renderer(render_mode) if render_mode else None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin a new episode.

        Args:
            seed: Of Gymnasium's `np_random`; None goes on with the present random state.
            options: ``attack`` and ``num_byzantine`` of this episode only, in place of the environment's own.
                Rules keep the f that they were told when they were built.

        Raises:
            ValueError: If an option is unknown or its value not allowed.
        """
        checked = self._core.check_options(options)
        super().reset(seed=seed)
        self._core.reset([self.np_random], options=checked)
        self._begun = True
        info = pick(self._core.reset_info(), 0)
        if self._renderer:
            self._history = History()
            self._record(info, 0.0)
        return self._observation(), info

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Play one round.

        Raises:
            ValueError: If the action is not in the action space (credits need not sum to 1).
            ResetNeeded: If no episode has begun.
        """
        if not self._begun:
            raise ResetNeeded("call reset() before the first step()")
        outcome = self._core.step(as_array(action)[None])
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
        return row(self._core.observe(), 0)

    def _record(self, info: dict[str, Any], reward: float) -> None:
        accuracy = info["accuracy"] if "accuracy" in info else float(self._core.metrics()["accuracy"][0])
        self._history.add(info, reward, accuracy)
        if self.render_mode == "human" and self._renderer:
            self._renderer.draw(self._history)


def _signature() -> inspect.Signature:
    """The signature of the environment, from its configuration: help() and editors show all arguments."""
    keyword = inspect.Parameter.KEYWORD_ONLY
    parameters = [
        inspect.Parameter(field.name, keyword, default=field.default, annotation=field.type)
        for field in fields(EnvConfig)
    ]
    return inspect.Signature([*parameters, inspect.Parameter("render_mode", keyword, default=None)])


ByzantineAggregationEnv.__signature__ = _signature()  # type: ignore[attr-defined]
