"""Who plays units of work: this process, processes on this machine, or a Ray cluster (`ray_engine`).

An engine plays units in any order and tells a `Watcher` what has happened; it writes nothing. What a unit
gives does not depend on the engine.
"""

from __future__ import annotations

import json
import os
import pickle
import queue
import subprocess
import sys
import threading
from collections import Counter, deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Protocol

from byzgym.experiments.registrations import Registrations
from byzgym.experiments.units import Played, Unit, failed, play_unit

TRIES = 3
"""How often a unit is played whose process gets killed."""
_ENDING = 10.0  # seconds from the end of a process's output to its own
_START = """
import json, signal, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
sys.path[:] = json.loads(sys.argv[1])
from byzgym.experiments.worker import main
main()
"""


class Watcher(Protocol):
    """Who gives out units, by their numbers, and takes what comes of them; called in one thread only."""

    def left(self, number: int) -> Unit | None:
        """What of a unit is still to play; None where nothing is."""
        ...

    def rounds(self, number: int, rounds: int) -> None:
        """So many rounds of a unit have been played; fewer than before where it had to begin again."""
        ...

    def done(self, number: int, played: Played) -> None:
        """A unit is finished."""
        ...


class Engine(Protocol):
    """Plays units. An interruption stops what is being played."""

    def play(self, count: int, watcher: Watcher) -> None:
        """Play the units 0 to ``count`` - 1."""
        ...


class Here:
    """This process, one unit after the other."""

    def play(self, count: int, watcher: Watcher) -> None:
        """See `Engine.play`."""
        for number in range(count):
            unit = watcher.left(number)
            if unit is not None:
                watcher.done(number, play_unit(unit, _Counting(watcher, number)))


class _Counting:
    """Tells how many rounds of a unit have been played."""

    def __init__(self, watcher: Watcher, number: int) -> None:
        self._watcher, self._number, self._rounds = watcher, number, 0

    def __call__(self, rounds: int) -> None:
        self._rounds += rounds
        self._watcher.rounds(self._number, self._rounds)


class Processes:
    """Processes on this machine, each with one thread; this one where there is a single unit.

    They are fresh Python interpreters, so that scripts and notebooks need no guard around their code. A unit
    whose process is killed is played again. They do not hear Ctrl-C: this process decides what it means.

    Args:
        processes: How many.
        imports: Modules of the user to import in each.
    """

    def __init__(self, processes: int, imports: Sequence[str] = ()) -> None:
        self._processes, self._imports = processes, imports

    def play(self, count: int, watcher: Watcher) -> None:
        """See `Engine.play`."""
        if min(count, self._processes) == 1:
            Here().play(count, watcher)
            return
        registrations = Registrations.collect(self._imports)
        waiting, deaths = deque(range(count)), Counter[int]()
        events: queue.SimpleQueue[tuple[_Worker, Any]] = queue.SimpleQueue()
        workers: set[_Worker] = set()
        try:
            while True:
                while waiting and len(workers) < self._processes:
                    unit = watcher.left(waiting[0])
                    number = waiting.popleft()
                    if unit is not None:
                        workers.add(_Worker(registrations, events, number, unit))
                if not workers:
                    return
                worker, message = events.get()
                if isinstance(message, Played):
                    watcher.done(worker.number, message)
                    if not self._next(worker, waiting, watcher):
                        workers.remove(worker)
                        worker.end()
                elif isinstance(message, int):
                    watcher.rounds(worker.number, message)
                elif isinstance(message, str):
                    raise RuntimeError(f"a process could not begin: {message}")
                elif worker in workers:
                    workers.remove(worker)
                    status = worker.status()
                    deaths[worker.number] += 1
                    if deaths[worker.number] < TRIES:
                        waiting.appendleft(worker.number)
                    else:
                        watcher.done(worker.number, failed(worker.unit, _killed(status)))
        finally:
            for worker in workers:
                worker.end()

    def _next(self, worker: _Worker, waiting: deque[int], watcher: Watcher) -> bool:
        """Give a worker that is free its next unit; False where there is none."""
        while waiting:
            number = waiting.popleft()
            unit = watcher.left(number)
            if unit is not None:
                worker.begin(number, unit)
                return True
        return False


class _Worker:
    """A process that plays units, see `byzgym.experiments.worker`; a thread reads what it says."""

    def __init__(
        self, registrations: Registrations, events: queue.SimpleQueue[Any], number: int, unit: Unit
    ) -> None:
        self.number, self.unit = number, unit
        self._process = subprocess.Popen(
            [sys.executable, "-c", _START, json.dumps(sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=one_thread(os.environ),
        )
        threading.Thread(target=self._read, args=[events], daemon=True).start()
        self._send(registrations)
        self.begin(number, unit)

    def begin(self, number: int, unit: Unit) -> None:
        """Play a unit."""
        self.number, self.unit = number, unit
        self._send(unit)

    def status(self) -> int:
        """The exit status of a process that has ended, or is about to."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_ENDING)
        return self.end()

    def end(self) -> int:
        """Stop, and give the exit status."""
        assert self._process.stdin is not None
        self._process.kill()
        with suppress(OSError):  # what it has not read is lost
            self._process.stdin.close()
        return self._process.wait()

    def _send(self, message: Any) -> None:
        assert self._process.stdin is not None
        with suppress(OSError):  # it may be dead, as the thread that reads will notice
            pickle.dump(message, self._process.stdin)
            self._process.stdin.flush()

    def _read(self, events: queue.SimpleQueue[Any]) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as stream:
            try:
                while True:
                    events.put((self, pickle.load(stream)))
            except (EOFError, OSError, pickle.UnpicklingError):
                events.put((self, None))


def one_thread(environment: Any) -> dict[str, str]:
    """An environment in which numerical libraries use one thread."""
    return {**environment, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def _killed(status: int) -> str:
    if status < 0:
        return f"its process ended by signal {-status} {TRIES} times, perhaps for want of memory"
    return f"its process ended with status {status} {TRIES} times"


def cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
