"""How sums round: the number of threads and the kernels of the libraries that add, whatever the environment says."""

import os
import platform
import sys
from pathlib import Path
from typing import Literal

import yaml

from optogram.progress import say

Threads = int | Literal["auto"]
# params.yaml's default: the fewest that most machines have
THREADS = 2
# more than any one machine has; the libraries count them with 32 bits
MOST_THREADS = 1024

# MKL else splits sums by the number of threads; OpenBLAS else picks kernels by the processor (both measured to matter)
KERNELS = {"MKL_CBWR": "AUTO,STRICT"} | ({"OPENBLAS_CORETYPE": "Haswell"} if platform.machine() == "x86_64" else {})
# libraries read these as they load; MKL else takes fewer threads where there are fewer cores
COUNTS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
FIXED = {"MKL_DYNAMIC": "FALSE"}
# what else an environment may say that gives other threads, other kernels or another precision
FOREIGN = (
    *("OMP_THREAD_LIMIT", "OMP_DYNAMIC", "OMP_NESTED", "OMP_MAX_ACTIVE_LEVELS", "GOTO_NUM_THREADS"),
    *("KMP_ALL_THREADS", "KMP_DEVICE_THREAD_LIMIT", "KMP_DYNAMIC_MODE", "KMP_FORCE_REDUCTION", "KMP_NUM_THREADS"),
    *("MKL_DOMAIN_NUM_THREADS", "MKL_ENABLE_INSTRUCTIONS", "MKL_DEBUG_CPU_TYPE", "OPENBLAS_CORETYPE"),
    *("DNNL_MAX_CPU_ISA", "ONEDNN_MAX_CPU_ISA", "DNNL_DEFAULT_FPMATH_MODE", "ONEDNN_DEFAULT_FPMATH_MODE"),
    *("ATEN_CPU_CAPABILITY", "NPY_DISABLE_CPU_FEATURES", "NPY_ENABLE_CPU_FEATURES"),
    *("SKLEARN_WORKING_MEMORY", "SKLEARN_PAIRWISE_DIST_CHUNK_SIZE", "SKLEARN_SKIP_OPENMP_TEST", "SCIPY_ARRAY_API"),
    *("NVIDIA_TF32_OVERRIDE", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE"),
    *("CUBLAS_WORKSPACE_CONFIG", "CUBLAS_EMULATION_STRATEGY"),
    *("TORCH_BLAS_PREFER_CUBLASLT", "TORCH_CUDNN_V8_API_DISABLED", "TORCH_CUDNN_V8_API_ENABLED"),
)


def threads_in(path: Path = Path("params.yaml")) -> Threads:
    """`threads` of params.yaml, before anything heavy is imported; the default where it says nothing sensible.

    Whether the file is right is for `load_params` to say, later.
    """
    try:
        values = yaml.load(path.read_bytes(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (OSError, ValueError, yaml.YAMLError):
        return THREADS
    found = values.get("threads", THREADS) if isinstance(values, dict) else THREADS
    sensible = found == "auto" or (isinstance(found, int) and not isinstance(found, bool) and 0 < found <= MOST_THREADS)
    return found if sensible else THREADS


def settle_environment(threads: Threads) -> None:
    """Settle what the libraries read as they load, for this process and its children.

    "auto" leaves what the environment says, and chooses kernels only where it says nothing.
    """
    if threads != "auto":
        for name in FOREIGN:
            os.environ.pop(name, None)
    os.environ.update(environment(threads))


def environment(threads: Threads) -> dict[str, str]:
    """What a process that is to round as this one needs in its environment."""
    if threads == "auto":
        return {name: os.environ.get(name, value) for name, value in KERNELS.items()}
    return {**KERNELS, **FIXED, **dict.fromkeys(COUNTS, str(threads))}


def kernels() -> dict[str, str]:
    """What this process's environment says about kernels and precision, threads aside."""
    return {name: os.environ[name] for name in sorted({*KERNELS, *FOREIGN}) if name in os.environ}


def use_threads(threads: Threads) -> None:
    """Have the libraries that this process has loaded compute with so many threads, also where there are fewer cores.

    What the environment said when they were loaded no longer counts. "auto" leaves them, and says what that means.
    """
    if threads == "auto":
        say("threads: auto, so the libraries choose how many: another machine, or another setting, gives other bytes")
        return
    from threadpoolctl import threadpool_limits

    threadpool_limits(threads)  # for good: only as a context would it be put back
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(threads)
