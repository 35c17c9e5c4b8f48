"""The parameter server and its workers: pure torch, batched over environments, no Gymnasium."""

from byzgym.simulation.simulation import Simulation

__all__ = ["Simulation"]
