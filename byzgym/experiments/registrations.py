"""How other processes get to know what the user has registered."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import cloudpickle

from byzgym.experiments.identity import REGISTRIES


@dataclass(frozen=True)
class Registrations:
    """The user's modules and factories, in a form that can be sent.

    Attributes:
        imports: Modules to import, as by `byzgym --import`.
        path: Where modules are searched.
        factories: What has been registered from outside byzgym, pickled.
    """

    imports: tuple[str, ...]
    path: tuple[str, ...]
    factories: bytes

    @classmethod
    def collect(cls, imports: Sequence[str] = ()) -> Registrations:
        """Those of this process.

        Raises:
            TypeError: If a factory cannot be sent to another process.
        """
        found = {
            kind: {
                name: registry.factory(name) for name in registry.names() if not registry.is_built_in(name)
            }
            for kind, registry in REGISTRIES.items()
        }
        for kind, factories in found.items():
            for name, factory in factories.items():
                try:
                    cloudpickle.dumps(factory)
                except Exception as error:  # depends on what the user's code holds
                    raise TypeError(
                        f"{kind} {name!r} cannot be sent to another process ({error}); play in this one "
                        "(--processes 1), or register it in a module (--import)"
                    ) from error
        return cls(tuple(imports), tuple(sys.path), cloudpickle.dumps(found))

    def restore(self) -> None:
        """Register all in this process."""
        sys.path.extend(entry for entry in self.path if entry not in sys.path)
        for module in self.imports:
            importlib.import_module(module)
        for kind, factories in cloudpickle.loads(self.factories).items():
            for name, factory in factories.items():
                REGISTRIES[kind].register(name, factory)
