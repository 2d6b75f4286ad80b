"""The stages. This package is imported before numpy and torch: it settles how they round, and what torch leaves out."""

import os
import platform

from stages.compiler import put_off

# MKL else splits sums by the number of threads; OpenBLAS else picks kernels by the processor (both measured to matter)
os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")
if platform.machine() == "x86_64":
    os.environ.setdefault("OPENBLAS_CORETYPE", "Haswell")

put_off()
