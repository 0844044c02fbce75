"""torch's own CUDA path without a GPU: a stub of the CUDA runtime, and values from the CPU.

`stub.c` is preloaded instead of the CUDA runtime: device memory is host memory, kernels are counted and not run. So
devices, generators, the caching allocator with its out-of-memory error, autocast, autograd's device threads, dispatch
and all checks of devices and types are torch's own. `Shadow` lets the CPU fill in what the kernels would have computed,
so that losses and accuracies are right, and counts launches and waits of the host by operation.

Not covered: what kernels themselves do wrong, which shapes cuDNN supports, errors that come late, time, CUDA graphs
(capture fails). How to use it: `pytest --fake-cuda 2 -m gpu`, or
`python -m tests.helpers.fake_cuda -m nastool search ...`.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sysconfig
import tempfile
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).resolve().parent
COUNTED = ("launches", "waits", "to device", "to host", "on device", "memsets", "allocations", "blocking")
"""What the stub counts, in its order."""
OFFSETS = {  # in bytes, of the fields of struct cudaDeviceProp in CUDA 13's header
    "SIZE": 1008,
    "name": 0,
    "uuid": 256,
    "totalGlobalMem": 288,
    "sharedMemPerBlock": 296,
    "regsPerBlock": 304,
    "warpSize": 308,
    "maxThreadsPerBlock": 320,
    "maxThreadsDim": 324,
    "maxGridSize": 336,
    "major": 360,
    "minor": 364,
    "multiProcessorCount": 384,
    "l2CacheSize": 596,
    "maxThreadsPerMultiProcessor": 604,
    "sharedMemPerMultiprocessor": 624,
    "regsPerMultiprocessor": 632,
    "sharedMemPerBlockOptin": 672,
}


def missing() -> str | None:
    """Why there can be no fake devices here; None: there can."""
    for tool in ("gcc", "nm"):
        if shutil.which(tool) is None:
            return f"fake CUDA devices need {tool}"
    if platform.system() != "Linux":
        return "fake CUDA devices need Linux"
    version = re.search(r"^cuda(?:: [^=]*)? = '(\d+)", (_torch() / "version.py").read_text(), re.MULTILINE)
    if version is None or version[1] != "13":
        return "fake CUDA devices need a torch that is built for CUDA 13"
    return None


def active() -> bool:
    """Whether this process sees fake devices."""
    return "libfakecudart" in os.environ.get("LD_PRELOAD", "")


def environment(devices: int = 1, mib: int = 81920, cc: int = 90, **more: object) -> dict[str, str]:
    """The environment variables of a new process that is to see fake devices; its Python processes enter a `Shadow`.

    devices: how many. mib: memory of each, in MiB. cc: compute capability, 90 for 9.0. more: what `stub.c` knows
    otherwise, such as FAKE_CUDA_ERROR.
    """
    library = _library()
    paths = [str(HERE / "start"), str(HERE.parents[2]), os.environ.get("PYTHONPATH", "")]
    wanted = {"FAKE_CUDA_DEVICES": devices, "FAKE_CUDA_MIB": mib, "FAKE_CUDA_CC": cc, **more}
    return {
        "LD_PRELOAD": str(library),
        "LD_LIBRARY_PATH": f"{library.parent}:{os.environ.get('LD_LIBRARY_PATH', '')}",
        "PYTHONPATH": os.pathsep.join(dict.fromkeys(path for path in ":".join(paths).split(":") if path)),
        **{name: str(value) for name, value in wanted.items()},
    }


def counts() -> dict[str, int]:
    """What this process has done to fake devices so far."""
    count = _counter()
    return {name: count(i) for i, name in enumerate(COUNTED)}


@functools.cache
def _counter() -> Callable[[int], int]:
    """Of this process: how often the thing of this number was asked for."""
    count = ctypes.CDLL(os.environ["LD_PRELOAD"].split(":")[0]).fake_cuda_count
    count.restype = ctypes.c_long
    return count


def _torch() -> Path:
    return Path(_site()) / "torch"


def _site() -> str:
    from importlib.util import find_spec

    spec = find_spec("torch")
    return str(Path(spec.origin).parent.parent) if spec and spec.origin else sysconfig.get_paths()["purelib"]


@functools.cache
def _library() -> Path:
    """The preloaded library, compiled where that has not been done yet."""
    source = (HERE / "stub.c").read_text() + repr(OFFSETS) + (_torch() / "version.py").read_text()
    name = f"nastool-fake-cuda-{os.getuid()}-{hashlib.sha256(source.encode()).hexdigest()[:16]}"
    folder = Path(tempfile.gettempdir()) / name
    if not folder.is_dir():
        with tempfile.TemporaryDirectory(dir=folder.parent) as made:
            _compile(Path(made))
            try:
                os.rename(made, folder)
                os.mkdir(made)  # for TemporaryDirectory to remove
            except OSError:  # another process was quicker
                assert folder.is_dir()
    return folder / "libfakecudart.so"


def _compile(folder: Path) -> None:
    source = re.sub("@(\\w+)@", lambda found: str(OFFSETS[found[1]]), (HERE / "stub.c").read_text())
    wanted: set[str] = set()
    for library in ("libc10_cuda", "libtorch_cuda", "libtorch_cuda_linalg", "libcaffe2_nvrtc"):
        command = ["nm", "-D", "--undefined-only", str(_torch() / "lib" / f"{library}.so")]
        out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        wanted |= set(re.findall(r" ((?:cuda|cublas|cu[A-Z])\w*)", out))
    for name in sorted(name for name in wanted if not re.search(rf"\b{name}\(", source)):
        makes = "*h = calloc(1, 4096); " if "Create" in name and "Init" not in name else ""
        product = "return launch(); " if re.search("[gG]emm|Matmul$|gemv", name) else "return 0; "
        source += f"E {name}(void **h) {{ {makes}{product}}}\n"
    path = folder / "fake.c"
    path.write_text(source)
    compiler = ["gcc", "-w", "-shared", "-fPIC", "-O1", str(path), "-o"]
    subprocess.run([*compiler, str(folder / "libfakecudart.so")], check=True)
    subprocess.run([*compiler, str(folder / "libcuda.so.1"), "-Wl,-soname,libcuda.so.1"], check=True)
