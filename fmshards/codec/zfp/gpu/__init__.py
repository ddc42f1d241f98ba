"""The codecs' kernels for CUDA devices, in Triton. Importing a kernel imports triton; `engine_triton` is the way in.

    targets.py      where the values of each block go in the output: tables on the device
    zfp_bits.py     one lane a ZFP block: from its bits to planes, from planes to bytes of coefficients
    zfp_kernel.py   the kernel of `zfp`: its text, made for a width of store, and its launch
    int_kernel.py   the kernel of `int`

They run in Triton's interpreter on the CPU too (TRITON_INTERPRET=1 before triton is imported), which is how the tests
hold them against zfpy where there is no device.
"""
