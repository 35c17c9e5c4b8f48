"""Plays a comparison; the tests kill it: python killing.py FOLDER PROCESSES [NAME=VALUE ...]."""

import ast
import sys
from pathlib import Path

from byzgym import attacks
from byzgym.experiments import Comparison, compare
from byzgym.experiments.engine import Here, Processes

SMALL = {
    "task": "synthetic",
    "rounds": 60,
    "seeds": 2,
    "policies": ("mean", "krum", "median", "oracle"),
    "attacks": ("sign_flip", "ipm:epsilon=2.0"),
    "num_byzantine": (2, 7),
}


class Slowly(attacks.SignFlip):
    """Gives the killer time; writes the number of its process into a file."""

    def __init__(self, folder, seconds=0.02):
        super().__init__()
        self.folder, self.seconds = folder, seconds

    def __call__(self, gradients, byzantine, context):
        import os
        import time

        (Path(self.folder) / "pids" / str(os.getpid())).touch()
        time.sleep(self.seconds)
        return super().__call__(gradients, byzantine, context)


def main():
    folder, processes, *changes = sys.argv[1:]
    (Path(folder) / "pids").mkdir(parents=True, exist_ok=True)
    attacks.register("test_slowly", Slowly)
    attack = f"test_slowly:folder={folder}"
    given = {**SMALL, "attacks": ("ipm", attack)}
    given |= {name: ast.literal_eval(value) for name, _, value in (word.partition("=") for word in changes)}
    engine = Here() if processes == "1" else Processes(int(processes))
    print(compare(Comparison(**given), folder, engine=engine).unfinished)


if __name__ == "__main__":
    main()
