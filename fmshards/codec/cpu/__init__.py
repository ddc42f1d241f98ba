"""The CPU engine: ZFP blocks of 4 x 4 x 4 as compiled kernels. `engine_numba` calls them.

features.py   what this CPU has, and so which way the kernels are written
bits.py       single machine instructions on integers and addresses
emitter.py    a block's arithmetic as LLVM vectors
vectors.py    out of these, a block's values to bit planes and back
lines.py      lines of values to memory, of any floating-point type
planes.py     the bit stream of a block to bit planes
decode.py     rows to features in place
encode.py     features to rows
"""
