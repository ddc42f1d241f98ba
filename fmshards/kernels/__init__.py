"""kernels: what the kernels of all rooms share.

jit.py         compiling numba functions once, and keeping them on disk
machine.py     what this CPU has, and so which way kernels are written
crc.py         CRC-32, folded where the CPU can
crc_kernel.py  the kernel under it
bits.py        single machine instructions on integers and addresses, for numba
llvm.py        vectors through an LLVM builder
cuda.py        whether Triton is there, may run now, and does right on a device
strides.py     a batch of features as channels and places in memory
rounding.py    float32 to an output's dtype, in Triton
"""
