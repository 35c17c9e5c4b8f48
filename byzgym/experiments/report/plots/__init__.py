"""Interactive figures for pages: those of `byzgym.experiments.figures`, as plotly.js draws them."""

from byzgym.experiments.report.plots import credits, curves, maps
from byzgym.experiments.report.plots.base import Group, Plot

__all__ = ["Group", "Plot", "credits", "curves", "maps"]
