"""Pictures of runs: text, a figure of one environment, small frames of many."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import numpy as np

RED, BLUE, GREEN, GREY, DARK = "#c0392b", "#2471a3", "#229954", "#7f8c8d", "#2c3e50"
_style_lock = threading.RLock()


@contextmanager
def default_style() -> Iterator[None]:
    """Matplotlib's default style, whatever the user's. Threads share it: only one draws at a time."""
    import matplotlib

    with _style_lock, matplotlib.rc_context():
        matplotlib.rcdefaults()
        yield


class History:
    """What has happened in the present episode of one environment."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.accuracies: list[float] = []
        self.reward = 0.0
        self.credits: np.ndarray | None = None  # [n]; None where the update has none
        self.byzantine = self.rejected = np.zeros(0, dtype=bool)  # [n]
        self.attack = "?"

    def add(self, info: Mapping[str, Any], reward: float = 0.0, accuracy: float = math.nan) -> None:
        """Add a round, or the reset, from its ``info``."""
        self.losses.append(info["qv_loss"])
        self.accuracies.append(accuracy)
        self.reward = reward
        credits = info.get("credits")
        self.credits = None if credits is None or np.isnan(credits).any() else credits
        self.byzantine, self.rejected = info["byzantine"], info["rejected"]
        self.attack = info.get("attack", "?")

    @property
    def round(self) -> int:
        """Rounds played."""
        return max(len(self.losses) - 1, 0)

    def credit_line(self) -> str:
        """Who has the credit, in words."""
        if self.credits is None:
            return "no credits"
        null = 1 - float(self.credits.sum())
        slot = f", zero vector {null:.2f}" if null > 1e-3 else ""
        if not self.byzantine.any():
            return f"no worker Byzantine{slot}"
        return f"Byzantine credit {self.credits[self.byzantine].sum():.2f}{slot}"


class Renderer:
    """Draws the `History` of one environment."""

    def __init__(self, mode: str) -> None:
        self.mode = mode  # "ansi", "rgb_array" or "human" (a window)
        self._figure: Any = None

    def __getstate__(self) -> dict[str, Any]:
        """A copy makes a figure of its own, because matplotlib cannot copy one."""
        return {**vars(self), "_figure": None}

    def draw(self, history: History) -> Any:
        """A string for "ansi", uint8 [height, width, 3] for "rgb_array", None for "human"."""
        if self.mode == "ansi":
            return text_frame(history)
        with default_style():
            self._figure = self._figure or self._new_figure()
            draw_figure(self._figure, history)
            self._figure.canvas.draw()
            if self.mode == "rgb_array":
                return np.asarray(self._figure.canvas.buffer_rgba())[..., :3].copy()
            return self._figure.canvas.flush_events()

    def close(self) -> None:
        """Close the window."""
        if self._figure is not None and self.mode == "human":
            import matplotlib.pyplot as plt

            plt.close(self._figure)
        self._figure = None

    def _new_figure(self) -> Any:
        if self.mode == "human":
            import matplotlib.pyplot as plt

            figure = plt.figure(figsize=(8, 4.5), layout="constrained")
            plt.show(block=False)
            return figure
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        return FigureCanvasAgg(Figure(figsize=(8, 4.5), dpi=100, layout="constrained")).figure


class VectorRenderer:
    """Draws a `small_frame` of each of E environments."""

    def __init__(self, num_envs: int) -> None:
        self.histories = [History() for _ in range(num_envs)]

    def record(self, infos: Mapping[str, Any], began: np.ndarray) -> None:
        """Add the infos of a reset or a step; ``began`` [E] says whose infos are those of a reset."""
        names = {"qv_loss", "credits", "byzantine", "rejected", "attack"} & infos.keys()
        present = {name: infos.get(f"_{name}", np.ones_like(began)) for name in names}
        for env in np.flatnonzero(present["qv_loss"]):
            if began[env]:
                self.histories[env] = History()
            self.histories[env].add({name: infos[name][env] for name in names if present[name][env]})

    def draw(self) -> tuple[np.ndarray, ...]:
        """A frame for each environment, uint8 [height, width, 3]; the more environments, the smaller."""
        from PIL import ImageFont

        width = max(40, min(320, 1280 // math.ceil(len(self.histories) ** 0.5))) // 8 * 8
        font = ImageFont.load_default(width / 16)
        return tuple(small_frame(history, width, font) for history in self.histories)


def grid(frames: Sequence[np.ndarray]) -> np.ndarray:
    """Frames of one size [height, width, 3] as one picture, about as many rows as columns.

    >>> grid([np.zeros((3, 4, 3), np.uint8)] * 5).shape  # two rows of three
    (6, 12, 3)
    """
    columns = math.ceil(len(frames) ** 0.5)
    frames = [*frames, *[np.full_like(frames[0], 255)] * (-len(frames) % columns)]
    return np.vstack([np.hstack(frames[i : i + columns]) for i in range(0, len(frames), columns)])


def small_frame(history: History, width: int, font: Any) -> np.ndarray:
    """An episode as a small picture, uint8 [3/4 width, width, 3].

    A bar shows the credit of a worker. The mark below it is blue for an honest worker, red for a Byzantine
    one, and hollow if the submission was rejected. The line is the quasi-validation loss, on a logarithmic
    axis from its smallest to its largest value.
    """
    from PIL import Image, ImageDraw

    unit = width / 160  # the frame is laid out as 160 x 120
    image = Image.new("RGB", (width, width * 3 // 4), "white")
    pen = ImageDraw.Draw(image)
    pen.rectangle((0, 0, image.width - 1, image.height - 1), outline=GREY)
    if not history.losses:
        return np.array(image)
    header, loss = f"round {history.round}  {history.attack}", f"loss {history.losses[-1]:.3g}"
    for text, y in ((header, 3), (history.credit_line(), 15), (loss, 79)):
        pen.text((6 * unit, y * unit), text[:28], "black", font)
    edges = np.linspace(6 * unit, 154 * unit, len(history.byzantine) + 1).round()
    credits = np.zeros(len(edges) - 1) if history.credits is None else history.credits
    for worker, (left, right) in enumerate(pairwise(edges.tolist())):
        colour = RED if history.byzantine[worker] else BLUE
        right = max(left, right - 2)
        if credits[worker] > 0:
            pen.rectangle((left, (68 - 38 * credits[worker]) * unit, right, 68 * unit), colour)
        fill = "white" if history.rejected[worker] else colour
        pen.rectangle((left, 71 * unit, right, 76 * unit), fill, colour)
    losses = np.log(np.clip(np.nan_to_num(history.losses, nan=1e9), 1e-9, 1e9))
    heights = (losses - losses.min()) / max(np.ptp(losses), 1e-9)
    line = np.stack([np.linspace(6, 154, len(losses)), 115 - 20 * heights], 1) * unit
    pen.line(line.ravel().tolist(), DARK, max(round(unit), 1))
    return np.array(image)


def text_frame(history: History, width: int = 30) -> str:
    """The present round as text: a line for each worker, and a legend."""
    if not history.losses:
        return "no round played yet"
    lines = [
        f"round {history.round:4d}  QV loss {history.losses[-1]:.4g}  accuracy {history.accuracies[-1]:.3f}  "
        f"reward {history.reward:+.3f}  {history.credit_line()}  attack {history.attack}"
    ]
    for worker, (byzantine, rejected) in enumerate(zip(history.byzantine, history.rejected, strict=True)):
        credit = None if history.credits is None else float(history.credits[worker])
        bar = "" if credit is None else f"{credit:5.3f} {'#' * round(credit * width)}"
        lines.append(f"worker {worker:2d} {'x' if byzantine else ' '} {'rejected' if rejected else bar}")
    lines.append("x marks Byzantine workers; the number and the bar show a worker's credit")
    return "\n".join(lines)


def draw_figure(figure: Any, history: History) -> None:
    """Draw into a matplotlib figure: credits on the left, loss and accuracy over the rounds on the right."""
    figure.clear()
    panes = figure.add_gridspec(2, 2, width_ratios=[1.1, 1])
    bars, losses, accuracies = (
        figure.add_subplot(panes[spot]) for spot in ((slice(None), 0), (0, 1), (1, 1))
    )
    count = len(history.byzantine)
    colours = np.where(history.byzantine, RED, BLUE).tolist()
    credits = np.zeros(count) if history.credits is None else history.credits
    bars.barh(np.arange(count), credits, color=colours, edgecolor=colours)
    bars.axvline(1 / max(count, 1), color=GREY, linestyle=":", linewidth=1)
    labels = [f"{worker}{' ✗' * bool(byzantine)}" for worker, byzantine in enumerate(history.byzantine)]
    size = min(10, 220 / max(count, 1))  # points: labels of many workers must not overlap
    bars.set_yticks(np.arange(count), labels, fontsize=size)
    for worker in np.flatnonzero(history.rejected):
        bars.text(0.01, worker, "rejected", color=RED, fontsize=size, va="center")
    for tick, byzantine in zip(bars.get_yticklabels(), history.byzantine, strict=True):
        tick.set_color(RED if byzantine else "black")
    bars.set(xlim=(0, 1), xlabel="credit (dotted: 1/n)", ylabel="worker (✗ Byzantine)")
    bars.invert_yaxis()
    bars.set_title(f"Round {history.round}, {history.attack}: {history.credit_line()}", fontsize=10)
    losses.plot(history.losses, color=DARK, marker="o", markersize=2)
    if history.losses and max(history.losses) > 10 * min(history.losses) > 0:
        losses.set_yscale("log")  # within a decade, a linear axis has the better ticks
        losses.minorticks_off()
    losses.set_title("quasi-validation loss", fontsize=10)
    accuracies.plot(history.accuracies, color=GREEN, marker="o", markersize=2)
    accuracies.set(ylim=(0, 1), xlabel="round")
    accuracies.set_title("test accuracy", fontsize=10)
    for axes in (losses, accuracies):
        axes.set_xlim(0, max(history.round, 1))
        axes.xaxis.get_major_locator().set_params(integer=True)
    for axes in (bars, losses, accuracies):
        axes.spines[["top", "right"]].set_visible(False)
