"""Which worker gets which device."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

from nastool.errors import InputError

MOST_THREADS = "NASTOOL_WORKER_THREADS"
"""In a worker's environment: it chooses its number of threads itself, up to this."""


def slots(workers: int, device: str = "auto", threads: int | None = None) -> list[dict[str, str]]:
    """The environment variables of each of `workers` worker processes.

    GPUs are dealt out in turn, one to a worker, by CUDA_VISIBLE_DEVICES, which is obeyed where the user has set
    it; several workers may share one. device: "auto", "cpu", "cuda", "cuda:N". threads: of each on the CPU; None: the
    cores that are free are divided evenly, and a worker may choose fewer (MOST_THREADS). OMP_NUM_THREADS is obeyed.
    """
    if workers < 1:
        raise InputError(f"--workers: need at least 1, got {workers}")
    gpus = [] if device == "cpu" or device.startswith("cuda:") else visible_gpus()
    most = max(1, free_cores() // workers)
    found = []
    for i in range(workers):
        environment = {} if "OMP_NUM_THREADS" in os.environ else {"OMP_NUM_THREADS": str(threads or most)}
        if environment and threads is None and most > 1:
            environment[MOST_THREADS] = str(most)
        if gpus:
            environment["CUDA_VISIBLE_DEVICES"] = gpus[i % len(gpus)]
        found.append(environment)
    return found


def keep_memory() -> bool:
    """Let this process keep the memory it frees, for the next tensor of that size.

    By default glibc maps every large block anew and gives it back at once, and the kernel zeroes it page by page, which
    can take as long as the operation that writes to it. Afterwards the process stays as large as it was at its largest.
    False where there is no such setting (macOS, musl).
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    top_pad, mmap_threshold, trim_threshold = -2, -3, -1
    settings = ((mmap_threshold, 1 << 30), (trim_threshold, (1 << 31) - 1), (top_pad, 64 << 20))
    return all([bool(mallopt(name, value)) for name, value in settings])


def usable_cores() -> int:
    """CPU cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def free_cores() -> int:
    """Of them, those that a container's limit allows and that nobody is using now; at least 1."""
    cores = float(usable_cores())
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        cores = min(cores, int(quota) / int(period))
    except (OSError, ValueError):  # there is none, or "max"
        pass
    try:
        load = os.getloadavg()[0]
    except OSError:
        load = 0.0
    return max(1, round(cores - load))


def visible_gpus() -> list[str]:
    """CUDA devices by the names CUDA_VISIBLE_DEVICES understands; [] without any."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [name.strip() for name in chosen.split(",") if name.strip() not in ("", "-1")]
    import torch

    return [str(i) for i in range(torch.cuda.device_count())]
