"""stable-baselines3: an adapter for the native vector environment, and policies that fit credit vectors."""

from byzgym.integrations.sb3.adapter import VecEnvAdapter, make_vec_env
from byzgym.integrations.sb3.distributions import DirichletDistribution
from byzgym.integrations.sb3.features import EquivariantExtractor
from byzgym.integrations.sb3.floor import CutAtFloor
from byzgym.integrations.sb3.model import ModelPolicy
from byzgym.integrations.sb3.policies import DirichletPolicy, EquivariantDirichletPolicy, EquivariantPolicy
from byzgym.integrations.sb3.sac import EquivariantSACPolicy

__all__ = [
    "CutAtFloor",
    "DirichletDistribution",
    "DirichletPolicy",
    "EquivariantDirichletPolicy",
    "EquivariantExtractor",
    "EquivariantPolicy",
    "EquivariantSACPolicy",
    "ModelPolicy",
    "VecEnvAdapter",
    "make_vec_env",
]
