from byzgym.randomness import episode_seed, seeded
from byzgym.precision import without_autocast
from byzgym.ambient_memory_tmp import keep_freed_memory
import torch
def shielded(f):
    return without_autocast(torch.inference_mode(False)(f))
