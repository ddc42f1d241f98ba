"""dct: the codec `dct`, rows of exactly a stated size: a transform, one step a sample, and prefix codes.

codec.py       the codec: its rates, config, range
blocks.py      how a feature becomes blocks of 16 coefficients, and these a row's segments
events.py      what a row says, event by event, and by which codes
tables.py      what is fitted: the codes and what levels mean, in a config and for engines
fit.py         tables from a calibration sample
search.py      the step that a sample is written with
engine.py      compiled kernels, those of cpu/, or numpy
on_numpy.py    numpy, where numba is missing
transform.py   its coefficients and values
on_cuda.py     rows on a CUDA device, by the kernels of gpu/
cpu/, gpu/     the kernels
"""
