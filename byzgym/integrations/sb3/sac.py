"""A permutation-equivariant policy for SAC."""

from __future__ import annotations

from typing import Any

from stable_baselines3.common.policies import ContinuousCritic
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.sac.policies import Actor, SACPolicy
from torch import nn

from byzgym.integrations.sb3.features import EquivariantExtractor
from byzgym.integrations.sb3.networks import CreditHead, SetEncoder, SetValue
from byzgym.integrations.sb3.policies import action_size, equivariant, layers
from byzgym.validation import check_real


class EquivariantSACPolicy(SACPolicy):
    """A policy for SAC that treats all workers alike: permuting the workers permutes the actions.

    >>> from stable_baselines3 import SAC
    >>> from byzgym.integrations.sb3 import make_vec_env
    >>> venv = make_vec_env(2, softmax_beta=10.0, task="synthetic", observation=["norms", "trust"])
    >>> SAC(EquivariantSACPolicy, venv, buffer_size=100).learn(16).predict(venv.reset())[0].shape
    (2, 10)

    The actor is that of `EquivariantPolicy`, with a standard deviation for each worker. The critic encodes
    each worker with its logit and its credit. It pools the encodings, and also sums them with the credits as
    weights, as the server sums the submissions. The parameters do not depend on the number of workers.

    Args:
        args: Observation space (pooled, or a Dict of parts), action space (Box(-1, 1, (n,)), or (n + 1,) with
            a null slot) and learning rate schedule.
        net_arch: Sizes of the hidden layers of actor and critic; [64, 64] if None.
        features_extractor_class: `EquivariantExtractor` or a subclass.
        log_std_init: Logarithm of the standard deviation before the first step, and before the actor's tanh.
        softmax_beta: Inverse temperature of the environment's softmax, greater than 0. The critic computes
            credits with it.
        kwargs: As for `SACPolicy`.

    Raises:
        ValueError: If there is not one action for each worker, the extractor is no `EquivariantExtractor`,
            ``net_arch`` is empty or not a list, ``use_sde`` is set, or ``softmax_beta`` is not allowed.
    """

    def __init__(
        self,
        *args: Any,
        net_arch: list[int] | None = None,
        features_extractor_class: type[EquivariantExtractor] = EquivariantExtractor,
        log_std_init: float = -1.0,
        softmax_beta: float = 10.0,
        **kwargs: Any,
    ) -> None:
        self.softmax_beta = check_real("softmax_beta", softmax_beta, above=0)
        self.use_sde = bool(kwargs.get("use_sde", False))
        kwargs |= {"net_arch": layers(net_arch), "features_extractor_class": features_extractor_class}
        kwargs["log_std_init"] = log_std_init
        super().__init__(*args, **kwargs)

    def make_actor(self, features_extractor: BaseFeaturesExtractor | None = None) -> Actor:
        """The network of the actor."""
        return _Actor(**self._update_features_extractor(self.actor_kwargs, features_extractor)).to(
            self.device
        )

    def make_critic(self, features_extractor: BaseFeaturesExtractor | None = None) -> ContinuousCritic:
        """The networks of the critic."""
        given = self._update_features_extractor(self.critic_kwargs, features_extractor)
        return _Critic(self.softmax_beta, **given).to(self.device)

    def _build(self, lr_schedule: Any) -> None:
        action_size(self, -1.0)
        super()._build(lr_schedule)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {**super()._get_constructor_parameters(), "softmax_beta": self.softmax_beta}


class _Actor(Actor):
    """SAC's actor with networks on sets of workers."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        size = self.action_space.shape[0]
        made = equivariant(self.features_extractor, size)
        self.latent_pi = SetEncoder(  # type: ignore[assignment]
            made.rows, made.row_dim, made.global_dim, self.net_arch, self.activation_fn
        )
        self.mu: Any = self._head(made.rows, size, 0.0)
        self.log_std: Any = self._head(made.rows, size, self.log_std_init)

    def _head(self, rows: int, num_actions: int, bias: float) -> CreditHead:
        """A layer that at first gives nearly the same number to all workers."""
        head = CreditHead(rows, self.net_arch[-1], num_actions > rows)
        for layer in (head.per_row, head.slot):
            if layer is not None:
                nn.init.uniform_(layer.weight, -1e-3, 1e-3)
                nn.init.constant_(layer.bias, bias)
        return head


class _Critic(ContinuousCritic):
    """SAC's critic with networks on sets of workers."""

    def __init__(self, beta: float, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        size = int(self.action_space.shape[0])  # type: ignore[index]
        made = equivariant(self.features_extractor, size)
        sizes = made.rows, made.row_dim, made.global_dim, size
        self.q_networks = [
            SetValue(*sizes, kwargs["net_arch"], kwargs["activation_fn"], beta) for _ in range(self.n_critics)
        ]
        for number, network in enumerate(self.q_networks):
            self.add_module(f"qf{number}", network)
