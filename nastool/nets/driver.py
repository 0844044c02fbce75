"""GPUs as NVIDIA's driver itself knows them, which takes a tenth of the time that torch takes to say the same."""

from __future__ import annotations

import ctypes
import re
from ctypes import byref
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from uuid import UUID

SURE = (7, 5), (9, 0)
"""Compute capabilities, from and to, for which every torch is built that is for CUDA."""


@dataclass(frozen=True)
class Gpu:
    """A CUDA device. index: torch's number of it. names: how CUDA_VISIBLE_DEVICES names it.

    memory, free: bytes; None: not asked for. problem: why this torch cannot compute on it, in words.
    """

    index: int
    names: str
    model: str
    uuid: str | None
    capability: tuple[int, int]
    memory: int
    free: int | None = None
    problem: str | None = None


def gpus() -> list[Gpu] | None:
    """GPUs that CUDA shows to this process, in its order; None: torch has to be asked, since something is unusual."""
    try:
        return _gpus(ctypes.CDLL("libcuda.so.1"))
    except (AttributeError, OSError):  # there is no driver, or one that cannot say all of it
        return None


def _gpus(driver: ctypes.CDLL) -> list[Gpu] | None:
    count, version, needed = ctypes.c_int(), ctypes.c_int(), _torch_cuda()
    if driver.cuInit(0) or driver.cuDriverGetVersion(byref(version)) or driver.cuDeviceGetCount(byref(count)):
        return None
    if needed is None or version.value // 1000 < needed:
        return None
    found = []
    for i in range(count.value):
        device, major, minor, memory = ctypes.c_int(), ctypes.c_int(), ctypes.c_int(), ctypes.c_size_t()
        name, uuid = ctypes.create_string_buffer(256), ctypes.create_string_buffer(16)
        if (
            driver.cuDeviceGet(byref(device), i)
            or driver.cuDeviceGetName(name, len(name), device)
            or driver.cuDeviceGetUuid_v2(uuid, device)
            or driver.cuDeviceGetAttribute(byref(major), 75, device)
            or driver.cuDeviceGetAttribute(byref(minor), 76, device)
            or driver.cuDeviceTotalMem_v2(byref(memory), device)
        ):
            return None
        capability = major.value, minor.value
        if not SURE[0] <= capability <= SURE[1]:
            return None
        found.append(Gpu(i, "", name.value.decode(), str(UUID(bytes=uuid.raw)), capability, memory.value))
    return found or None


def _torch_cuda() -> int | None:
    """The major version of CUDA that torch is built for, without importing it; None: for none."""
    spec = find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    text = Path(spec.origin).with_name("version.py").read_text(encoding="utf-8")
    found = re.search(r"^cuda\b[^=]*= '(\d+)\.", text, re.MULTILINE)
    return None if found is None else int(found[1])
