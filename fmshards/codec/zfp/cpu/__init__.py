"""The kernels of the CPU engines. Imported only where numba works.

features.py   what this CPU has, and so which way kernels are written
bits.py       single machine instructions on integers and addresses

zfp: blocks of 4 x 4 x 4
emitter.py    a block's arithmetic as LLVM vectors
vectors.py    out of these, a block's values to bit planes and back
lines.py      lines of values to memory, of any floating-point type
planes.py     the bit stream of a block to bit planes
decode.py     rows to features in place
encode.py     features to rows

int
int_vectors.py  runs of values and packed codes as LLVM vectors
int_kernels.py  rows to features and back, and the fit of scales and offsets

filter_kernel.py  sorted bytes put together again
"""
