"""Units of work on a Ray cluster (pip install "byzgym[ray]")."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

from byzgym.experiments.engine import TRIES, Watcher, one_thread
from byzgym.experiments.registrations import Registrations
from byzgym.experiments.units import Played, Unit, failed, play_unit, told


class OnRay:
    """A Ray cluster: every unit is a task of one core, and Ray plays it again if its process dies.

    All machines need the same versions of byzgym and torch, and the files that names mention. Processors of
    another kind may differ in last bits.

    Args:
        address: Of a cluster, as `ray.init` takes it; a cluster on this machine for the time of playing where
            None.
        imports: Modules of the user to import everywhere.

    Raises:
        ImportError: If ray is not installed.
    """

    def __init__(self, address: str | None = None, imports: Sequence[str] = ()) -> None:
        try:
            import ray
        except ImportError as error:
            raise ImportError(f'engine ray needs ray: pip install "byzgym[ray]" ({error})') from error
        self._ray, self._address, self._imports = ray, address, imports

    def play(self, count: int, watcher: Watcher) -> None:
        """See `Engine.play`."""
        ray = self._ray
        registrations = Registrations.collect(self._imports)
        started = not ray.is_initialized()
        if started:
            try:
                ray.init(
                    self._address,
                    log_to_driver=False,
                    include_dashboard=False if self._address is None else None,
                    runtime_env={"env_vars": one_thread({})},
                )
            except ConnectionError as error:
                raise OSError(
                    f"address must be that of a Ray cluster, got {self._address!r}: {error}"
                ) from None
        play = ray.remote(num_cpus=1, max_retries=TRIES - 1)(_play)
        waiting, running = deque(range(count)), dict[Any, tuple[int, Unit]]()
        try:
            while True:
                at_once = max(1, int(ray.cluster_resources().get("CPU", 1)))
                while waiting and len(running) < at_once:
                    number = waiting.popleft()
                    unit = watcher.left(number)
                    if unit is not None:
                        running[play.remote(registrations, unit)] = number, unit
                if not running:
                    return
                finished, _ = ray.wait(list(running))
                for task in finished:
                    number, unit = running.pop(task)
                    watcher.done(number, self._result(task, unit))
        finally:
            for task in running:
                ray.cancel(task, force=True)
            if started:
                ray.shutdown()

    def _result(self, task: Any, unit: Unit) -> Played:
        try:
            played: Played = self._ray.get(task)
        except self._ray.exceptions.RayTaskError as error:
            raise RuntimeError(f"a Ray process could not begin: {told(error.cause)}") from error
        except self._ray.exceptions.RayError as error:  # its process died, again and again
            return failed(unit, told(error))
        return played


def _play(registrations: Registrations, unit: Unit) -> Played:
    registrations.restore()
    return play_unit(unit)
