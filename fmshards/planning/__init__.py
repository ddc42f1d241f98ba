"""Which cut, codec, rate and mirror serve a user's own data: measured on a sample, judged by the task.

Below extraction, which reads the sample and takes the answer; it knows images, labels and a model, no source.

measure.py   what a codec does to features, judged by the rest of the network
estimate.py  means over photos, with their standard errors
"""

from __future__ import annotations

from fmshards.planning.estimate import Estimate, photos_needed
from fmshards.planning.measure import Answers, ErrorDb, Outcome, answers, compare, fitted, through

__all__ = ["Answers", "ErrorDb", "Estimate", "Outcome", "answers", "compare", "fitted", "photos_needed", "through"]
