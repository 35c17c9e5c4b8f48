"""The tasks by name."""

from __future__ import annotations

from byzgym.registry import Registry
from byzgym.tasks.base import Task

registry: Registry[Task] = Registry("task", lambda value: isinstance(value, Task), "a Task")
names = registry.names
register = registry.register
make = registry.make
make_from = registry.make_from
