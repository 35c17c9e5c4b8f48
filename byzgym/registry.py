"""Names for all that can be chosen by name (rules, attacks, tasks, ...), open to extension from outside."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Registry(Generic[T]):
    """A mapping from names to factories.

    Args:
        kind: What is registered, as errors should call it ("rule", "attack", ...).
    """

    def __init__(self, kind: str, accepts: Callable[[Any], bool] = callable) -> None:
        self.kind = kind
        self.accepts = accepts
        self._factories: dict[str, Callable[..., T]] = {}
        self._built_in: set[str] = set()

    def names(self) -> list[str]:
        """The known names, sorted."""
        return sorted(self._factories)

    def register(self, name: str, factory: Callable[..., T]) -> None:
        """Make ``factory(**parameters)`` known as ``name``.

        Registering a name of yours again replaces it, so that a notebook cell can run twice.

        Raises:
            ValueError: If ``name`` is empty, no string, holds a colon, comma, equals sign or space, or
                is built in.
            TypeError: If ``factory`` cannot be called.
        """
        if not isinstance(name, str) or not name or set(name) & set(":,= "):
            raise ValueError(
                f"{self.kind}: a name must be a non-empty string without ':', ',', '=' and spaces, "
                f"which the command line needs, got {name!r}"
            )
        if not callable(factory):
            raise TypeError(f"the factory of {self.kind} {name!r} must be callable, got {factory!r}")
        if name in self._built_in:
            raise ValueError(f"{self.kind} {name!r} is built in and cannot be replaced; choose another name")
        self._factories[name] = factory

    def is_built_in(self, name: str) -> bool:
        """Whether byzgym itself has registered the name."""
        return isinstance(name, str) and name in self._built_in

    def built_in(self, name: str) -> Callable[[Callable[..., T]], Callable[..., T]]:
        """Decorator with which byzgym registers its own factories."""

        def decorate(factory: Callable[..., T]) -> Callable[..., T]:
            self.register(name, factory)
            self._built_in.add(name)
            return factory

        return decorate

    def factory(self, name: str) -> Callable[..., T]:
        """The factory registered as ``name``.

        Raises:
            ValueError: If the name is unknown; the message lists the known ones.
        """
        if not isinstance(name, str) or name not in self._factories:
            raise ValueError(f"unknown {self.kind} {name!r}; known: {', '.join(self.names())}")
        return self._factories[name]

    def takes(self, name: str, parameter: str) -> bool:
        """Whether the factory registered as ``name`` takes such a keyword, or any, and has not been given it.

        Raises:
            ValueError: If the name is unknown.
        """
        factory = self.factory(name)
        if isinstance(factory, partial) and parameter in factory.keywords:
            return False
        try:
            known = inspect.signature(factory).parameters.values()
        except ValueError:  # some built-in classes have none
            return False
        by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        return any(p.kind is p.VAR_KEYWORD or (p.name == parameter and p.kind in by_name) for p in known)

    def make(self, name: str, /, **parameters: Any) -> T:
        """Build the one registered as ``name``.

        Raises:
            ValueError: If the name is unknown; the message lists the known ones.
            TypeError: If it has no such parameter, or lacks one; the message lists its parameters.
        """
        factory = self.factory(name)
        try:
            signature = inspect.signature(factory)
        except ValueError:  # some built-in classes have none
            return factory(**parameters)
        try:
            signature.bind(**parameters)
        except TypeError as error:
            allowed = ", ".join(str(p) for p in signature.parameters.values()) or "none"
            raise TypeError(f"{self.kind} {name!r}: {error}; its parameters: {allowed}") from None
        return factory(**parameters)

    def describe(self, spec: Any) -> str:
        from byzgym import specs
        if isinstance(spec, str):
            return repr(spec)
        if isinstance(spec, Mapping):
            return repr(specs.label(spec))
        return getattr(spec, "__name__", None) or type(spec).__name__

    def make_from(self, spec: Any, inject: Mapping[str, Any] = {}) -> T:
        from byzgym import specs
        if isinstance(spec, str):
            spec = specs.parse(spec)
        if not isinstance(spec, Mapping):
            if self.accepts(spec):
                return spec
            raise TypeError(f"{self.kind} must be a name or a mapping with a 'name', got {spec!r}")
        parameters = dict(spec)
        if "name" not in parameters:
            raise ValueError(f"{self.kind}: a mapping needs the key 'name', got {spec!r}")
        name = parameters.pop("name")
        for key, value in inject.items():
            if key not in parameters and self.takes(name, key):
                parameters[key] = value
        return self.make(name, **parameters)


def suggestion(name: str, known: Any) -> str:
    return "known: " + ", ".join(known)
