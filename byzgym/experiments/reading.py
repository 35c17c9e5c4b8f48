"""The results of a store: the comparisons that were asked for in it, and the runs that belong to them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from byzgym.experiments.config import Comparison
from byzgym.experiments.results import RUN, RUN_COLUMNS, Results, Told
from byzgym.experiments.store import DamagedError, Store, curves

_LISTS = ("policies", "attacks", "num_byzantine")


def read_all(store: Store) -> list[Results]:
    """The results of every setting in a store, the one that was last asked for last.

    What was asked for at different times in one setting (more seeds, other policies) is shown together. Of a
    setting that was played with several versions of the code only the last one is shown.

    Raises:
        ValueError: If there are none, or they are not what byzgym has written.
    """
    settings: dict[str, list[dict[str, Any]]] = {}
    for entry in store.asked():
        settings[entry["setting"]] = [*settings.pop(entry["setting"], []), entry]
    if not settings:
        raise ValueError(f"{store.path} holds no comparison")
    try:
        latest: dict[str, str] = {}
        for setting, asked in settings.items():
            latest.pop(_without_lists(asked[-1]), None)  # of other code; the order is that of asking
            latest[_without_lists(asked[-1])] = setting
        return [_read(store, setting, settings[setting]) for setting in latest.values()]
    except DamagedError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{store.path} holds something else than comparisons: {error}") from None


def _read(store: Store, setting: str, asked: Sequence[Mapping[str, Any]]) -> Results:
    comparisons = [Comparison(**entry["comparison"]) for entry in asked]
    rows = [
        pd.DataFrame(comparison.runs(), columns=list(RUN)).assign(key=entry["runs"], last=entry is asked[-1])
        for comparison, entry in zip(comparisons, asked, strict=True)
    ]
    wanted = pd.concat(rows, ignore_index=True)
    # A model that was trained again, or code of the user that has changed, makes other runs of the same
    # names: those that were asked for last count.
    expected = wanted[list(RUN)].drop_duplicates()
    expected = expected.merge(wanted.drop_duplicates(list(RUN), keep="last"), on=list(RUN))
    comparison = _together(comparisons)
    # In the order of what was asked for, whatever was finished first.
    table = expected[["key"]].reset_index().merge(store.table(setting), on="key").sort_values("index")
    done, failed = table[table["status"] == "done"], table[table["status"] == "failed"]
    last = asked[-1]
    return Results(
        comparison,
        done[list(RUN_COLUMNS)].reset_index(drop=True).astype(RUN_COLUMNS),
        curves(done),
        failed[[*RUN, "error"]].reset_index(drop=True),
        expected,
        list(dict.fromkeys(Told(**told) for entry in asked for told in entry["told"])),
        [name for name in comparison.policies if any(name in entry["refs"] for entry in asked)],
        list(dict.fromkeys(note for entry in asked for note in entry["notes"])),
        last["versions"],
        list(dict.fromkeys(name for entry in asked for name in entry["imports"])),
        setting,
        done.drop(columns="index").reset_index(drop=True),
        _configuration(table),
        sorted(set(done["machine"])),
        store.path.parent,
        _without_parts(comparisons),
    )


def _configuration(table: pd.DataFrame) -> dict[str, Any]:
    """What all runs of a setting have in common, of rows of the store."""
    held = json.loads(table["configuration"].iloc[0]) if len(table) else {}
    return {name: value for name, value in held.items() if name not in (*RUN, "files")}


def _without_lists(entry: Mapping[str, Any]) -> str:
    """What the runs of a comparison have in common, as text."""
    left_out = (*_LISTS, "seeds", "first_seed")
    return repr(sorted((k, v) for k, v in entry["comparison"].items() if k not in left_out))


def _together(comparisons: Sequence[Comparison]) -> Comparison:
    """One comparison with the policies, attacks, numbers and seeds of all, which differ in nothing else."""
    first = min(comparison.first_seed for comparison in comparisons)
    last = max(comparison.first_seed + comparison.seeds for comparison in comparisons)
    lists: Any = {
        name: tuple(dict.fromkeys(value for one in comparisons for value in getattr(one, name)))
        for name in _LISTS
    }
    return replace(comparisons[0], first_seed=first, seeds=last - first, **lists)


def _without_parts(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """The comparisons whose runs are not all among those of another one."""
    kept: list[tuple[Comparison, set[Any]]] = []
    for comparison in comparisons:
        runs = set(comparison.runs())
        if not any(runs <= others for _, others in kept):
            kept = [(one, others) for one, others in kept if not others <= runs] + [(comparison, runs)]
    return [comparison for comparison, _ in kept]
