"""The kernels of `dct` on a CPU. Imported only where numba works.

vectors.py    blocks transformed and quantised, as LLVM vectors
encode.py     values to rows
decode.py     rows to values
"""
