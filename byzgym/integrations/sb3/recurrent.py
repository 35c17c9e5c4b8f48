"""A permutation-equivariant policy with a memory, for RecurrentPPO of sb3-contrib (an extra)."""

from __future__ import annotations

from typing import Any

from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy

from byzgym.integrations.sb3.networks import SetLSTM
from byzgym.integrations.sb3.policies import EquivariantPolicy
from byzgym.validation import check_int


class EquivariantLstmPolicy(EquivariantPolicy, RecurrentActorCriticPolicy):
    """`EquivariantPolicy` with a memory of each worker: one LSTM, with a state for every worker.

    >>> from sb3_contrib import RecurrentPPO
    >>> from byzgym.integrations.sb3 import make_vec_env
    >>> venv = make_vec_env(2, softmax_beta=10.0, task="synthetic", observation=["norms", "trust"])
    >>> model = RecurrentPPO(EquivariantLstmPolicy, venv, n_steps=8, batch_size=16).learn(16)
    >>> actions, state = model.predict(venv.reset())
    >>> actions.shape, state[0].shape  # 16 numbers of memory for each of 10 workers
    ((2, 10), (1, 2, 160))

    The networks of actor and critic see the features of a round and the memory. The critic's loss does not
    train the LSTM.

    Args:
        args: As for `EquivariantPolicy`.
        lstm_hidden_size: Numbers that are remembered of each worker.
        kwargs: As for `EquivariantPolicy`.

    Raises:
        ValueError: As `EquivariantPolicy`, and if ``lstm_hidden_size`` is less than 1.
    """

    def __init__(self, *args: Any, lstm_hidden_size: int = 16, **kwargs: Any) -> None:
        self.memory_dim = check_int("lstm_hidden_size", lstm_hidden_size, low=1)
        shared: dict[str, Any] = {"shared_lstm": True, "enable_critic_lstm": False}
        super().__init__(*args, lstm_hidden_size=lstm_hidden_size, **shared, **kwargs)
        made: Any = self.features_extractor
        self.lstm_actor: Any = SetLSTM(made.rows, made.row_dim, made.global_dim, lstm_hidden_size)
        self.lstm_hidden_state_shape = (1, 1, self.lstm_actor.hidden_size)
        rate = self.optimizer.param_groups[0]["lr"]
        self.optimizer = self.optimizer_class(self.parameters(), lr=rate, **self.optimizer_kwargs)  # type: ignore[call-arg]

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {**super()._get_constructor_parameters(), "lstm_hidden_size": self.memory_dim}
