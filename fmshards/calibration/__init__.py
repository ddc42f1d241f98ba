"""What is measured on a calibration sample before a set is written.

calibrate.py      everything below for several layers, in a pass or two over the calibration images
similarity.py     for each channel: is moving the feature like the feature of the moved image?
sensitive.py      which channels a view stores: a fraction, a threshold or a list
grid.py           where a feature's cells lie in the base image
mirror_fit.py     the mapped mirror; least_squares.py: its normal equations
"""

from __future__ import annotations

from fmshards.calibration.calibrate import LayerCalibration, Stage, calibrate, default_calibration
from fmshards.calibration.grid import FeaturesOf, cell_centres, measure_grid
from fmshards.calibration.sensitive import Sensitive, parse_sensitive
from fmshards.calibration.similarity import Comparison

__all__ = [
    "Comparison",
    "FeaturesOf",
    "LayerCalibration",
    "Sensitive",
    "Stage",
    "calibrate",
    "cell_centres",
    "default_calibration",
    "measure_grid",
    "parse_sensitive",
]
