"""The kernels of `dct` on a CUDA device, in Triton. Importing it imports triton; `on_cuda` is the way in.

    levels.py    one lane a segment: from its bits to coefficients
    values.py    from coefficients to values, in their places
    kernel.py    tables on the device, and launches

They run in Triton's interpreter on the CPU too (TRITON_INTERPRET=1 before triton is imported).
"""
