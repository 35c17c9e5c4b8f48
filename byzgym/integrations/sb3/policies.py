"""Actor-critic policies for credit vectors: permutation-equivariant, Dirichlet, and both."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from gymnasium import spaces
from stable_baselines3.common.distributions import DiagGaussianDistribution, Distribution
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
from stable_baselines3.common.torch_layers import CombinedExtractor
from stable_baselines3.common.type_aliases import Schedule
from torch import Tensor, nn

from byzgym.integrations.sb3.distributions import DirichletDistribution
from byzgym.integrations.sb3.features import EquivariantExtractor
from byzgym.integrations.sb3.networks import CreditHead, SetNetwork
from byzgym.validation import check_int


class _DirichletActions(ActorCriticPolicy):
    """A policy whose actions are drawn from a `DirichletDistribution`."""

    action_low = 0.0

    def __init__(self, *args: Any, min_concentration: float = 0.02, **kwargs: Any) -> None:
        self.min_concentration = min_concentration
        super().__init__(*args, **kwargs)

    def _get_action_dist_from_latent(self, latent_pi: Tensor) -> Distribution:
        assert isinstance(self.action_dist, DirichletDistribution)
        return self.action_dist.proba_distribution(self.action_net(latent_pi))

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {**super()._get_constructor_parameters(), "min_concentration": self.min_concentration}


class DirichletPolicy(_DirichletActions):
    """An MLP policy for PPO and A2C whose actions are credits from a Dirichlet distribution.

    They are on the simplex, unlike the actions of a Gaussian policy. Deterministic actions are the mode (see
    `DirichletDistribution.mode`). The parts of a Dict observation are concatenated. The arguments are those
    of `ActorCriticPolicy`, and ``min_concentration``, see `DirichletDistribution`.

    Raises:
        ValueError: If the actions are not credits, Box(0, 1, (n,)), or ``use_sde`` is set.
    """

    def __init__(self, observation_space: spaces.Space[Any], *args: Any, **kwargs: Any) -> None:
        if isinstance(observation_space, spaces.Dict):
            kwargs.setdefault("features_extractor_class", CombinedExtractor)
        super().__init__(observation_space, *args, **kwargs)

    def _build(self, lr_schedule: Schedule) -> None:
        size = action_size(self, self.action_low)
        super()._build(lr_schedule)
        self.action_dist = DirichletDistribution(size, self.min_concentration)
        self.log_std.requires_grad_(False)  # of the Gaussian that the base class has built; unused


class EquivariantPolicy(ActorCriticPolicy):
    """A policy for PPO and A2C that treats all workers alike: permuting the workers permutes the actions.

    >>> from stable_baselines3 import PPO
    >>> from byzgym.integrations.sb3 import make_vec_env
    >>> venv = make_vec_env(2, softmax_beta=10.0, task="synthetic", observation=["norms", "trust"])
    >>> PPO(EquivariantPolicy, venv, n_steps=8, batch_size=16).learn(16).predict(venv.reset())[0].shape
    (2, 10)

    One network gives each worker a number. It sees the features of the worker, and the mean and the maximum
    over all workers; the critic pools over the workers. The actions are Gaussian with one common standard
    deviation: logits for `byzgym.wrappers.SoftmaxCredits`. A null slot gets its number from the pooled
    encodings. `EquivariantSACPolicy` is one like it for SAC, `EquivariantLstmPolicy` for RecurrentPPO. The
    policies of other learners take `EquivariantExtractor` as ``features_extractor_class``.

    The parameters do not depend on the number of workers. To move a model to another number, build one on the
    new environment and call ``set_parameters``.

    Args:
        args: Observation space (pooled, or a Dict of parts), action space (Box(-1, 1, (n,)), or (n + 1,) with
            a null slot) and learning rate schedule.
        net_arch: Sizes of the hidden layers of actor and critic; [64, 64] if None. The first layer encodes
            each worker alone. The others (a second one of the same size if there are none) see all workers.
        features_extractor_class: `EquivariantExtractor` or a subclass.
        kwargs: As for `ActorCriticPolicy`.

    Raises:
        ValueError: If there is not one action for each worker, the extractor is no `EquivariantExtractor`,
            ``net_arch`` is empty or not a list, or ``use_sde`` is set.
    """

    action_low = -1.0
    memory_dim = 0
    """What a recurrent policy remembers of each worker, beside the features."""

    def __init__(
        self,
        *args: Any,
        net_arch: list[int] | None = None,
        features_extractor_class: type[EquivariantExtractor] = EquivariantExtractor,
        **kwargs: Any,
    ) -> None:
        kwargs |= {"net_arch": layers(net_arch), "features_extractor_class": features_extractor_class}
        super().__init__(*args, **kwargs)

    def _build(self, lr_schedule: Schedule) -> None:
        size = action_size(self, self.action_low)
        extractor = equivariant(self.features_extractor, size)
        hidden: list[int] = self.net_arch  # type: ignore[assignment]
        row_dim = extractor.row_dim + self.memory_dim
        self.mlp_extractor: Any = SetNetwork(
            extractor.rows, row_dim, extractor.global_dim, hidden, self.activation_fn
        )
        self.action_net = CreditHead(extractor.rows, hidden[-1], size > extractor.rows)
        self.value_net = nn.Linear(self.mlp_extractor.latent_dim_vf, 1)
        self._build_distribution(size)
        if self.ortho_init:
            gains = {self.mlp_extractor: 2**0.5, self.action_net: 0.01, self.value_net: 1.0}
            for module, gain in gains.items():
                module.apply(partial(self.init_weights, gain=gain))
        self.optimizer = self.optimizer_class(self.parameters(), lr=lr_schedule(1), **self.optimizer_kwargs)  # type: ignore[call-arg]

    def _build_distribution(self, size: int) -> None:
        self.log_std = nn.Parameter(torch.full((1,), float(self.log_std_init)))  # one for all workers

    def _get_action_dist_from_latent(self, latent_pi: Tensor) -> Distribution:
        assert isinstance(self.action_dist, DiagGaussianDistribution)
        return self.action_dist.proba_distribution(self.action_net(latent_pi), self.log_std)


class EquivariantDirichletPolicy(_DirichletActions, EquivariantPolicy):
    """`EquivariantPolicy` whose actions are credits from a Dirichlet distribution, in Box(0, 1, (n,)).

    It also takes ``min_concentration``, see `DirichletDistribution`.
    """

    def _build_distribution(self, size: int) -> None:
        self.action_dist = DirichletDistribution(size, self.min_concentration)


def layers(net_arch: list[int] | None) -> list[int]:
    """The sizes of the hidden layers of an equivariant policy, checked; [64, 64] if None."""
    net_arch = [64, 64] if net_arch is None else net_arch
    if not isinstance(net_arch, list) or not net_arch:
        raise ValueError(f"net_arch must be a non-empty list of layer sizes, got {net_arch!r}")
    return [check_int("net_arch (each)", size, low=1) for size in net_arch]


def equivariant(extractor: nn.Module, num_actions: int) -> EquivariantExtractor:
    """The features extractor, checked to be one for so many actions."""
    if not isinstance(extractor, EquivariantExtractor):
        raise ValueError(f"features_extractor_class must be an EquivariantExtractor, got {extractor}")
    if num_actions - extractor.rows not in (0, 1):
        raise ValueError(
            f"action must have {extractor.rows} entries, one per worker, or one more with a null slot, "
            f"got {num_actions}"
        )
    return extractor


def action_size(policy: BasePolicy, low: float) -> int:
    """The number of actions, checked to be what the policy draws."""
    space = policy.action_space
    if not isinstance(space, spaces.Box) or len(space.shape) != 1 or space.low.min() != low:
        hint = "wrap the environment in SoftmaxCredits" if low < 0 else "do not wrap the environment"
        raise ValueError(
            f"{type(policy).__name__} needs actions in Box({low}, 1.0, (n,)): {hint}; got {space}"
        )
    if getattr(policy, "use_sde", False):
        raise ValueError(f"{type(policy).__name__} does not support use_sde=True")
    return int(space.shape[0])
