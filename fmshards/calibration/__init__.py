"""What is measured on a calibration sample before a set is written.

calibrate.py      everything below for several layers, in a pass or two over the calibration images
passes.py         the images, and how batches of them go through the prefix
similarity.py     for each channel: is moving the feature like the feature of the moved image?
sensitive.py      which channels a view stores: a fraction, a threshold or a list
grid.py           where a feature's cells lie in the base image
mirrors.py        what of the mirror is stored, and what stands in for the rest
mirror_fit.py     the map from base to mirror; least_squares.py: its normal equations
"""

from __future__ import annotations

from fmshards.calibration.calibrate import LayerCalibration, calibrate, default_calibration
from fmshards.calibration.grid import FeaturesOf, cell_centres, measure_grid
from fmshards.calibration.mirror_fit import FoundMirror
from fmshards.calibration.passes import Stage
from fmshards.calibration.sensitive import Sensitive, parse_sensitive
from fmshards.calibration.similarity import Comparison

__all__ = [
    "Comparison",
    "FeaturesOf",
    "FoundMirror",
    "LayerCalibration",
    "Sensitive",
    "Stage",
    "calibrate",
    "cell_centres",
    "default_calibration",
    "measure_grid",
    "parse_sensitive",
]
