"""The kernel of `int` on a CUDA device, written in Triton. Imported only where triton is.

kernel.py    rows to features
"""
