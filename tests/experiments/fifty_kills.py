"""Kills comparisons at random moments and compares what comes of them with an undisturbed one, row by row.

    python tests/experiments/fifty_kills.py FOLDER [--kills 50] [--seed 0]

Every second time the driver is killed, otherwise one of its workers, each by SIGKILL: while modules are
imported, runs are played or rows are written. What was finished must be there after each kill of a driver,
unchanged. Linux only; it takes some minutes, so no test runs it. It ends with status 1 at the first
difference.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import tyro

from byzgym.experiments import Comparison, compare
from byzgym.experiments.engine import Processes
from byzgym.experiments.store import NAME, Store, unpack

COMPARISON = Comparison(
    policies=("mean", "krum", "median", "trust", "gaa", "oracle"),
    attacks=("sign_flip", "ipm", "alie"),
    num_byzantine=tuple(range(1, 8)),
    rounds=100,
    seeds=2,
)
LONGEST = 12.0  # seconds from a start to a kill


def main(folder: tyro.conf.Positional[Path], kills: int = 50, seed: int = 0) -> None:
    """Kill, compare, and print what happened."""
    generator, killed, stores = random.Random(seed), {"driver": 0, "worker": 0}, 0
    started = time.monotonic()
    subprocess.run(_command(folder / "whole"), check=True)
    whole = _rows(folder / "whole")
    _say(started, f"undisturbed: {len(whole)} runs")
    while sum(killed.values()) < kills:
        stores += 1
        place = folder / f"killed{stores}"
        _kill_until_finished(place, kills, killed, generator, started)
        pd.testing.assert_frame_equal(_rows(place), whole, check_exact=True)
        _say(
            started, f"{place.name} is finished, and equal in all {len(whole)} rows; killed so far: {killed}"
        )


def _kill_until_finished(
    place: Path, kills: int, killed: dict[str, int], generator: random.Random, started: float
) -> None:
    """Start the same command again and again, until one ends by itself."""
    before = _rows(place)
    while True:
        driver = subprocess.Popen(_command(place))
        while sum(killed.values()) < kills:
            what = "worker" if killed["worker"] < killed["driver"] else "driver"
            if _ended(driver, generator.uniform(0, LONGEST)):
                break
            workers = _children(driver.pid)
            if what == "worker" and not workers:
                continue
            os.kill(driver.pid if what == "driver" else generator.choice(workers), signal.SIGKILL)
            killed[what] += 1
            if what == "driver":
                break
        status = driver.wait()
        found = _rows(place)
        kept = found[found["key"].isin(before["key"])].reset_index(drop=True)
        if len(before):
            pd.testing.assert_frame_equal(kept, before, check_exact=True)
        _say(started, f"status {status}, {len(found)} runs, {killed}")
        before = found
        if status == 0:
            return
        if status != -signal.SIGKILL:
            raise SystemExit(f"the driver ended with status {status}")


def _ended(driver: subprocess.Popen[bytes], seconds: float) -> bool:
    try:
        driver.wait(seconds)
    except subprocess.TimeoutExpired:
        return False
    return True


def _command(folder: Path) -> list[str]:
    return [sys.executable, __file__, "--play", str(folder)]


def _children(pid: int) -> list[int]:
    """The processes that a process has started."""
    found: list[int] = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        found += map(int, path.read_text().split())
    return found


def _rows(folder: Path) -> pd.DataFrame:
    """The finished runs of a store, without what differs between any two."""
    if not (folder / NAME).exists():
        return pd.DataFrame({"key": []})
    with Store(folder) as store:
        table = store.table(credits=True)
    table = table[table["status"] == "done"].sort_values("key", ignore_index=True)
    table["credits"] = [
        None if packed is None else {name: values.tolist() for name, values in unpack(packed).items()}
        for packed in table["credits"]
    ]
    return table.drop(columns=["seconds", "finished", "machine"])


def _say(started: float, text: str) -> None:
    print(f"{time.monotonic() - started:6.0f} s: {text}", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--play"]:
        compare(COMPARISON, sys.argv[2], engine=Processes(2))
    else:
        tyro.cli(main, description=__doc__)
