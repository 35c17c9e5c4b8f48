"""A process that plays units for `byzgym.experiments.engine.Processes`.

It reads pickles from its standard input: `Registrations`, then units. It writes pickles to its standard
output: how many rounds of a unit have been played, and at the end of a unit what it has given. It ends as
soon as its input does, in the middle of a round, so that nobody plays on for a parent that is gone.
"""

from __future__ import annotations

import os
import pickle
import queue
import sys
import threading
import time
from typing import IO, Any

import torch

from byzgym.experiments.registrations import Registrations
from byzgym.experiments.units import Unit, play_unit, told

_EVERY = 0.2  # seconds between two messages about rounds


def main() -> None:
    """Play units until the input ends."""
    output = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what the user's code prints is no message
    messages: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(target=_read, args=[sys.stdin.buffer, messages], daemon=True).start()
    torch.set_num_threads(1)
    registrations: Registrations = messages.get()
    try:
        registrations.restore()
    except Exception as error:  # the user's modules may raise any
        _send(output, told(error))
        return
    while True:
        unit: Unit = messages.get()
        _send(output, play_unit(unit, _Rounds(output)))


class _Rounds:
    """Says now and then how many rounds of a unit have been played."""

    def __init__(self, output: IO[bytes]) -> None:
        self._output, self._rounds, self._last = output, 0, time.monotonic()

    def __call__(self, rounds: int) -> None:
        self._rounds += rounds
        if time.monotonic() - self._last >= _EVERY:
            self._last = time.monotonic()
            _send(self._output, self._rounds)


def _read(stream: IO[bytes], messages: queue.SimpleQueue[Any]) -> None:
    try:
        while True:
            messages.put(pickle.load(stream))
    except (EOFError, OSError, pickle.UnpicklingError):
        os._exit(0)


def _send(output: IO[bytes], message: Any) -> None:
    try:
        pickle.dump(message, output)
        output.flush()
    except OSError:
        os._exit(0)
