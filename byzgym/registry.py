"""Names for all that can be chosen by name (rules, attacks, tasks, ...), open to extension from outside."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Generic, TypeVar

from byzgym import specs
from byzgym.validation import shown, unknown

T = TypeVar("T")


class Registry(Generic[T]):
    """A mapping from names to factories.

    Args:
        kind: What is registered, as errors call it ("rule", "attack", ...).
        accepts: Whether an object is of this kind: `make_from` returns it as it is, and factories must return
            one. Where None, `make_from` takes no objects, and what factories return is not checked.
        objects: What ``accepts`` accepts, as errors call it ("a Task", "a callable", ...).

    Example:
        >>> registry = Registry("rule", is_callable, "a callable")
        >>> registry.register("quantile", lambda q=0.5: lambda rows: rows.quantile(q, -2))
        >>> rule = registry.make_from("quantile:q=0.2")  # or {"name": "quantile", "q": 0.2}
        >>> registry.make_from(rule) is rule
        True
    """

    def __init__(
        self, kind: str, accepts: Callable[[Any], bool] | None = None, objects: str = "an object"
    ) -> None:
        self.kind, self._accepts, self._objects = kind, accepts, objects
        self._factories: dict[str, Callable[..., T]] = {}
        self._built_in: set[str] = set()
        self._others: list[Registry[Any]] = []

    def names(self) -> list[str]:
        """The known names, sorted."""
        return sorted(self._factories)

    def register(self, name: str, factory: Callable[..., T]) -> None:
        """Make ``factory(**parameters)`` known as ``name``.

        Registering a name of yours again replaces it, so that a notebook cell can run twice.

        Raises:
            ValueError: If ``name`` is empty, no string, holds a colon, comma, equals sign, plus sign or
                space, is built in, or is in a registry from which this one is kept apart.
            TypeError: If ``factory`` cannot be called.
        """
        if not isinstance(name, str) or not name or set(name) & set(":,=+ "):
            raise ValueError(
                f"{self.kind}: a name must be a non-empty string without ':', ',', '=', '+' and spaces, "
                f"which the command line needs, got {shown(name)}"
            )
        if not callable(factory):
            raise TypeError(f"the factory of {self.kind} {name!r} must be callable, got {shown(factory)}")
        if name in self._built_in:
            raise ValueError(f"{self.kind} {name!r} is built in and cannot be replaced; choose another name")
        for other in self._others:
            if name in other.names():
                raise ValueError(
                    f"{self.kind} {name!r} must not have the name of a registered {other.kind}: where names "
                    "are joined by '+', it could be either; choose another name"
                )
        self._factories[name] = factory

    def keep_apart(self, other: Registry[Any]) -> None:
        """Let no name be registered in both, because the same texts may hold names of either."""
        self._others.append(other)
        other._others.append(self)

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
        """The factory registered as ``name``; a ValueError lists the known names if there is none."""
        if not isinstance(name, str) or name not in self._factories:
            raise unknown(self.kind, name, self.names())
        return self._factories[name]

    def takes(self, name: str, parameter: str) -> bool:
        """Whether the factory registered as ``name`` has this parameter, not yet bound by a `partial`.

        A factory with ``**parameters`` takes num_byzantine, which any rule may be told, and nothing else.
        """
        factory = self.factory(name)
        if isinstance(factory, partial) and parameter in factory.keywords:
            return False
        kinds = {p.name: p.kind for p in inspect.signature(factory).parameters.values()}
        if parameter == "num_byzantine" and inspect.Parameter.VAR_KEYWORD in kinds.values():
            return True
        by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        return kinds.get(parameter) in by_name

    def make(self, name: str, /, **parameters: Any) -> T:
        """Build the one registered as ``name``.

        Raises:
            ValueError: If the name is unknown; the message lists the known ones.
            TypeError: If it has no such parameter, or lacks one (the message lists its parameters), or if its
                factory returns something of another kind.
        """
        factory = self.factory(name)
        signature = inspect.signature(factory)
        try:
            signature.bind(**parameters)
        except TypeError as error:
            known = [str(p.replace(annotation=p.empty)) for p in signature.parameters.values()] or ["none"]
            raise TypeError(f"{self.kind} {name!r}: {error}; its parameters: {', '.join(known)}") from None
        made = factory(**parameters)
        if self._accepts and not self._accepts(made):
            raise TypeError(
                f"the factory of {self.kind} {name!r} must return {self._objects}, got {shown(made)}"
            )
        return made

    def make_from(self, spec: str | Mapping[str, Any] | T, inject: Mapping[str, Any] | None = None) -> T:
        """Build from "name", "name:key=value,..." or {"name": ..., **parameters}; return an object as it is.

        The value of "name:value" is for the one parameter that the factory cannot do without. Values of
        ``inject`` are used where the factory `takes` a parameter that ``spec`` does not give.

        Raises:
            ValueError: If the name is missing or unknown, or a text has another form.
            TypeError: If ``spec`` is something else, or a parameter does not fit.
        """
        if self._accepts and self._accepts(spec):
            return spec  # type: ignore[return-value]
        if not isinstance(spec, str | Mapping):
            objects = f" or {self._objects}" if self._accepts else ""
            raise TypeError(
                f"{self.kind} must be 'name', 'name:key=value,...', a mapping with a 'name'{objects}, "
                f"got {shown(spec)}"
            )
        parameters = specs.parse(spec) if isinstance(spec, str) else dict(spec)
        if "name" not in parameters:
            raise ValueError(f"{self.kind}: a mapping needs the key 'name', got {shown(spec)}")
        name = parameters.pop("name")
        if specs.BARE in parameters:
            parameters[self._main(name, inject or {})] = parameters.pop(specs.BARE)
        injected = {key: value for key, value in (inject or {}).items() if self.takes(name, key)}
        return self.make(name, **(injected | parameters))

    def _main(self, name: str, inject: Mapping[str, Any]) -> str:
        """The one parameter that the factory cannot do without."""
        parameters = inspect.signature(self.factory(name)).parameters.values()
        named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
        needed = [p.name for p in named if p.default is p.empty and p.name not in inject]
        if len(needed) != 1:
            known = ", ".join(p.name for p in named) or "none"
            raise ValueError(
                f"{self.kind} {name!r}: expected '{name}:key=value', got a value without a key; its "
                f"parameters: {known}"
            )
        return needed[0]


def is_callable(value: Any) -> bool:
    """Whether it is a function or an object to call. A class is not: it makes such objects."""
    return callable(value) and not isinstance(value, type)


def describe(spec: Any) -> str:
    """What errors and tables call the thing made from ``spec``: its name with parameters, never an address.

    Example:
        >>> describe({"name": "ipm", "epsilon": 1.0}), describe("ipm"), describe(len)
        ('ipm:epsilon=1.0', 'ipm', 'len')
    """
    if isinstance(spec, Mapping):
        return specs.label(spec)
    return spec if isinstance(spec, str) else getattr(spec, "__name__", type(spec).__name__)
