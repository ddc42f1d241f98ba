"""The kernels of `int` on a CPU. Imported only where numba works.

vectors.py    runs of values and packed codes as LLVM vectors
kernels.py    rows to features and back, and the fit of scales and offsets
"""
