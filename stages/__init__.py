"""The stages. This package is imported before numpy and torch load their libraries: it settles how these round."""

import os
import platform

# MKL else splits sums by the number of threads; OpenBLAS else picks kernels by the processor (both measured to matter)
os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")
if platform.machine() == "x86_64":
    os.environ.setdefault("OPENBLAS_CORETYPE", "Haswell")
