"""Tasks: data, the model trained on it, its partition among workers and the server's quasi-validation set.

A new built-in task is one small function that returns a `Task`: decorate it with
``@registry.built_in("name")`` and import its file here. From outside the package call `register` with such a
function:
``tasks.register("mine", lambda: tasks.Task(train=(x, y), test=(x2, y2), num_classes=10, model="mlp:32"))``.
"""

from byzgym.tasks import (
    cms,
    csv,
    embedded,
    images,
    models,
    partitions,
    quasi_validation,
    validation,
    vision_models,
    yelp,
)
from byzgym.tasks.base import Task
from byzgym.tasks.registry import make, make_from, names, register

__all__ = [
    "Task",
    "cms",
    "csv",
    "embedded",
    "images",
    "make",
    "make_from",
    "models",
    "names",
    "partitions",
    "quasi_validation",
    "register",
    "validation",
    "vision_models",
    "yelp",
]
