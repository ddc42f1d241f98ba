"""The kernels of `zfp` on a CPU: blocks of 4 x 4 x 4. Imported only where numba works.

emitter.py    a block's arithmetic as LLVM vectors
vectors.py    out of these, a block's values to bit planes and back
lines.py      lines of values to memory, of any floating-point type
planes.py     the bit stream of a block to bit planes
decode.py     rows to features in place
encode.py     features to rows
"""
