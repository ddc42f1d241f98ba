"""integer: the codec `int`, packed codes of 2 to 8 bits, a scale and an offset for each run of values.

codec.py       the codec: its rates, config, range
runs.py        how a row holds a feature
steps.py       scales and offsets of whole channels, from a sample
engine.py      compiled kernels, those of cpu/, or numpy
on_numpy.py    numpy, where numba is missing; says how scales and offsets are fitted to a run
on_cuda.py     rows on a CUDA device, by the kernel of gpu/
cpu/, gpu/     the kernels
"""
