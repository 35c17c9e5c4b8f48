"""Who attacks, since when, and together with whom: from what a server knows of its rounds.

A `Log` is fed a `ServerView` and a `Decision` in every round, in a simulation or in a training job. `analyse`
judges the workers of a run from its `Trace`, without labels. A `Recorder` writes a run to a file that `read`
reads, and `draw` shows it in one picture. `evaluate` compares an analysis with the truth, which only a
simulation knows.
"""

from byzgym.forensics.analysis import Analysis, Verdict, analyse
from byzgym.forensics.copies import groups, near_copies
from byzgym.forensics.log import Log
from byzgym.forensics.picture import draw
from byzgym.forensics.record import Record, Recorder, read
from byzgym.forensics.suspicion import Threshold, calibrate, split, suspicion
from byzgym.forensics.trace import Trace
from byzgym.forensics.truth import Evaluation, evaluate

__all__ = [
    "Analysis",
    "Evaluation",
    "Log",
    "Record",
    "Recorder",
    "Threshold",
    "Trace",
    "Verdict",
    "analyse",
    "calibrate",
    "draw",
    "evaluate",
    "groups",
    "near_copies",
    "read",
    "split",
    "suspicion",
]
