"""The kernels of `dct` on a CPU. Imported only where numba works.

vectors.py    blocks transformed and quantised, as LLVM vectors
matrices.py   the transforms as it takes them
segment.py    a segment counted and written
encode.py     values to rows
inverse.py    blocks brought back, as LLVM vectors
lay.py        blocks brought back to their places
decode.py     rows to values
"""
