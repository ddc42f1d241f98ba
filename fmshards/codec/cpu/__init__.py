"""The CPU engine: ZFP blocks of 4 x 4 x 4 at memory-like speed, as numba kernels.

    bits.py      single machine instructions
    vectors.py   a block's bit planes to values and back, as LLVM vectors
    planes.py    the bit stream of a block to bit planes and back; one way with BMI2, one for any CPU
    blocks.py    rows to features in place and back: which block's lines go where
"""
