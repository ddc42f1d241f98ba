"""The kernel of `zfp` on a CUDA device, in Triton. Importing it imports triton; `on_cuda` is the way in.

    targets.py    where the values of each block go in the output: tables on the device
    bits.py       one lane a block: from its bits to planes, from planes to bytes of coefficients
    kernel.py     the kernel: its text, made for a width of store, and its launch

It runs in Triton's interpreter on the CPU too (TRITON_INTERPRET=1 before triton is imported), which is how the tests
hold it against zfpy where there is no device.
"""
