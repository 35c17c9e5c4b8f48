"""Tunes a policy, and prints a dot at each round and the trials at the end; a test kills it: FOLDER."""

import sys
from pathlib import Path

from byzgym.experiments import Comparison
from byzgym.experiments.engine import Here
from byzgym.experiments.tuning import Parameter, Tuning


def main():
    comparison = Comparison(
        task="synthetic", policies="gaa", attacks=("ipm", "zero"), rounds=50, seeds=2, first_seed=9
    )
    tuning = Tuning(comparison, [Parameter.read("learning_rate=0.001:1:log")], Path(sys.argv[1]))
    tuning.play(4, Here(), lambda name, rounds: print(".", end="", flush=True))
    print(tuning.trials())


if __name__ == "__main__":
    main()
