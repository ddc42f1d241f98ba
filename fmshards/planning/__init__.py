"""Which cut, codec, rate and mirror serve a user's own data: measured on a sample, judged by the task.

Below extraction, which reads the sample and takes the answer; it knows images, labels and a model, no source.

survey.py    each cut measured: who judges, the smallest rate within the budget, the mirror, the worth
proposal.py  the answer, as a file that extraction takes
measure.py   what a codec does to features, and that to the answers of the rest of the network
judge.py     by what features are judged: the network's own rest, or the stand-in of probe.py
choice.py    which cuts are looked at and proposed, and what a person should know
search.py    the smallest rate within a budget
moves.py     what flips, crops and resized crops do to features
worth.py     bytes, bandwidth, FLOPs, seconds, and after how many epochs caching pays
photos.py    the sample
estimate.py  means over photos, with their standard errors
"""

from __future__ import annotations

from fmshards.planning.estimate import Estimate, photos_needed
from fmshards.planning.judge import SUFFIXES
from fmshards.planning.measure import Answers, Outcome, Passage, answers, certainty, compare, fitted, through
from fmshards.planning.photos import Photos
from fmshards.planning.proposal import Proposal, options_of_file
from fmshards.planning.survey import Budget, CutReport, Halves, Setting, survey

__all__ = [
    "SUFFIXES",
    "Answers",
    "Budget",
    "CutReport",
    "Estimate",
    "Halves",
    "Outcome",
    "Passage",
    "Photos",
    "Proposal",
    "Setting",
    "answers",
    "certainty",
    "compare",
    "fitted",
    "options_of_file",
    "photos_needed",
    "survey",
    "through",
]
