"""Pictures of a run: credits per worker, loss, accuracy and reward so far."""

from __future__ import annotations

from typing import Any

import numpy as np


class History:
    """What has happened in the present episode."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self.losses: list[float] = []
        self.accuracies: list[float] = []
        self.rewards: list[float] = []
        self.credits: np.ndarray = np.zeros(0)
        self.byzantine: np.ndarray = np.zeros(0, dtype=bool)
        self.rejected: np.ndarray = np.zeros(0, dtype=bool)

    def add(self, info: dict[str, Any], reward: float, accuracy: float) -> None:
        """Note a round (or the reset)."""
        self.losses.append(info["qv_loss"])
        self.accuracies.append(accuracy)
        self.rewards.append(reward)
        self.credits = info["credits"]
        self.byzantine = info["byzantine"]
        self.rejected = info["rejected"]

    @property
    def round(self) -> int:
        """Rounds played."""
        return max(len(self.losses) - 1, 0)

    @property
    def byzantine_credit(self) -> float:
        """Credit of all Byzantine workers together (NaN where a vector was applied)."""
        return float(self.credits[self.byzantine].sum())

    @property
    def null_credit(self) -> float:
        """Credit of the zero vector (0 without a null slot, NaN where a vector was applied)."""
        return max(0.0, 1 - float(self.credits.sum())) if not np.isnan(self.credits).any() else np.nan

    def credit_line(self) -> str:
        """Who has the credit, in words."""
        if np.isnan(self.byzantine_credit):
            return "a vector was applied"
        slot = f", zero vector {self.null_credit:.2f}" if self.null_credit > 1e-3 else ""
        return f"Byzantine credit {self.byzantine_credit:.2f}{slot}"


class Renderer:
    """Draws a `History`.

    Args:
        mode: "ansi", "rgb_array" or "human" (a window of matplotlib's).
    """

    def __init__(self, mode: str) -> None:
        self.mode = mode
        self._figure: Any = None

    def __getstate__(self) -> dict[str, Any]:
        """Copies draw a figure of their own: matplotlib's do not survive copying."""
        return {**vars(self), "_figure": None}

    def draw(self, history: History) -> Any:
        """A string, an array (height, width, 3) of uint8, or None for "human"."""
        if self.mode == "ansi":
            return text_frame(history)
        if self._figure is None:
            self._figure = self._new_figure()
        draw_figure(self._figure, history)
        self._figure.canvas.draw()
        if self.mode == "rgb_array":
            return np.asarray(self._figure.canvas.buffer_rgba())[..., :3].copy()
        self._figure.canvas.flush_events()
        return None

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

        figure = Figure(figsize=(8, 4.5), dpi=100, layout="constrained")
        FigureCanvasAgg(figure)
        return figure


def text_frame(history: History, width: int = 30) -> str:
    """The present round as text: a bar per worker, Byzantine workers marked with an x."""
    if not history.losses:
        return "no round played yet"
    lines = [
        f"round {history.round:4d}  QV loss {history.losses[-1]:.4g}  accuracy {history.accuracies[-1]:.3f}  "
        f"reward {history.rewards[-1]:+.3f}  {history.credit_line()}"
    ]
    for worker, credit in enumerate(history.credits):
        mark = "x" if history.byzantine[worker] else " "
        if history.rejected[worker]:
            shown = "rejected"
        elif np.isnan(credit):
            shown = "no credits: the rule applied a vector"
        else:
            shown = f"{credit:5.3f} {'#' * round(float(credit) * width)}"
        lines.append(f"worker {worker:2d} {mark} {shown}")
    return "\n".join(lines)


def draw_figure(figure: Any, history: History) -> None:
    """Draw into a matplotlib figure: credits on the left, loss and accuracy over the rounds on the right."""
    figure.clear()
    grid = figure.add_gridspec(2, 2, width_ratios=[1.1, 1])
    bars, losses, accuracies = (figure.add_subplot(grid[spot]) for spot in ((slice(None), 0), (0, 1), (1, 1)))
    workers = np.arange(len(history.credits))
    colours = np.where(history.byzantine, "#c0392b", "#2471a3")
    bars.barh(workers, np.nan_to_num(history.credits), color=colours, edgecolor=colours)
    bars.axvline(1 / max(len(workers), 1), color="#7f8c8d", linestyle=":", linewidth=1)
    labels = [f"{w}{' ✗' * bool(byzantine)}" for w, byzantine in zip(workers, history.byzantine, strict=True)]
    size = min(10, 220 / max(len(workers), 1))  # points: labels of many workers must not overlap
    bars.set_yticks(workers, labels, fontsize=size)
    for worker in np.flatnonzero(history.rejected):
        bars.text(0.01, worker, "rejected", color="#c0392b", fontsize=size, va="center")
    for tick, byzantine in zip(bars.get_yticklabels(), history.byzantine, strict=True):
        tick.set_color("#c0392b" if byzantine else "black")
    bars.set(xlim=(0, 1), xlabel="credit (dotted: 1/n)", ylabel="worker (✗ Byzantine)")
    bars.invert_yaxis()
    bars.set_title(f"Round {history.round}: {history.credit_line()}", fontsize=10)
    rounds = np.arange(len(history.losses))
    losses.plot(rounds, history.losses, color="#2c3e50", marker="o", markersize=2)
    if history.losses and max(history.losses) > 10 * min(history.losses) > 0:
        losses.set_yscale("log")  # within a decade, a linear axis has the better ticks
        losses.minorticks_off()
    losses.set_title("quasi-validation loss", fontsize=10)
    accuracies.plot(rounds, history.accuracies, color="#229954", marker="o", markersize=2)
    accuracies.set(ylim=(0, 1), xlabel="round")
    accuracies.set_title("test accuracy", fontsize=10)
    for axes in (losses, accuracies):
        axes.set_xlim(0, max(history.round, 1))
        axes.xaxis.get_major_locator().set_params(integer=True)
    for axes in (bars, losses, accuracies):
        axes.spines[["top", "right"]].set_visible(False)
