"""What this CPU has, and so which way its kernels are written."""

from __future__ import annotations

import os
from functools import lru_cache

from fmshards.errors import InputError

CHOICE = "FMSHARDS_ENGINE"
"""The environment variable that chooses an engine: bmi2, avx2, portable or zfpy."""
WAYS = ("bmi2", "avx2", "portable")
# These have PEXT and PDEP in microcode, tens of times slower than what they replace.
_SLOW_PEXT = ("znver1", "znver2", "bdver4")


@lru_cache(maxsize=1)
def way() -> tuple[str, str]:
    """One of WAYS, and why. Raises InputError for a choice that this CPU cannot run."""
    import llvmlite.binding as llvm

    name = llvm.get_host_cpu_name()
    features = llvm.get_host_cpu_features()
    vectors = bool(features.get("avx2"))
    bits = vectors and bool(features.get("bmi2")) and bool(features.get("pclmul"))
    able = {"bmi2": bits, "avx2": vectors, "portable": True}
    choice = os.environ.get(CHOICE)
    if choice in WAYS:
        if not able[choice]:
            raise InputError(f"{CHOICE}={choice}: {name} has no such instructions; leave it out, or choose portable")
        return choice, f"{CHOICE}={choice}"
    if bits and name not in _SLOW_PEXT:
        return "bmi2", f"{name} has AVX2, BMI2 and PCLMULQDQ"
    if vectors:
        return "avx2", f"{name} has AVX2, but " + ("its PEXT is slow" if bits else "not both BMI2 and PCLMULQDQ")
    return "portable", f"{name} has no AVX2"


def half_precision() -> bool:
    """Whether float32 becomes float16 in one instruction here. Without it LLVM calls a function that is not there."""
    import platform

    import llvmlite.binding as llvm

    if platform.machine().lower() in ("aarch64", "arm64"):
        return True
    return bool(llvm.get_host_cpu_features().get("f16c"))
