"""Devices: those that are there, and the one that each worker gets."""

from __future__ import annotations

import ctypes
import os
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from nastool.core.errors import InputError, one_line, short
from nastool.core.processes import WorkerProcess
from nastool.nets import driver
from nastool.nets.driver import Gpu as Gpu

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

MOST_THREADS = "NASTOOL_WORKER_THREADS"
"""Variable in a worker's environment: it chooses its number of threads itself, up to this."""
VARIABLE = "CUDA_VISIBLE_DEVICES"
NONE = ("", "-1", "NoDevFiles")
"""Values of the variable where somebody hides all GPUs on purpose."""
ASK_SECONDS = 120.0
"""Seconds that CUDA may take to say what is there."""
ROOT = Path("/")


@dataclass(frozen=True)
class Cuda:
    """GPUs that CUDA shows to a process, in its order. problem: why it shows none although it should, in words.

    hidden: the entry of CUDA_VISIBLE_DEVICES that CUDA does not show, in words.
    """

    gpus: tuple[Gpu, ...] = ()
    problem: str | None = None
    hidden: str | None = None


class Hidden(InputError):
    """CUDA does not show a device that CUDA_VISIBLE_DEVICES names."""


def slots(
    workers: int,
    device: str = "auto",
    threads: int | None = None,
    say: Callable[[str], None] = lambda line: None,
    most: int | None = None,
) -> list[dict[str, str]]:
    """The environment variables of each of `workers` worker processes.

    GPUs are dealt out in turn, one to a worker, by CUDA_VISIBLE_DEVICES, of those that it shows where the user has set
    it; several workers may share one.

    Args:
        workers: Number of worker processes, >= 1.
        device: "auto", "cpu", "cuda", "cuda:N".
        threads: Threads of each on the CPU; None: the cores that are free are divided evenly, and a worker may choose
            fewer (MOST_THREADS). OMP_NUM_THREADS is obeyed.
        say: Called with a line about what is there and not used.
        most: Most workers that there may be.

    Raises:
        InputError: CUDA does not show what the variable or the device names, or cannot use it.
    """
    if workers < 1:
        raise InputError(f"--workers: need at least 1, got {workers}")
    found = Cuda() if device == "cpu" else look()
    dealt = assigned(found, device, workers)
    for line in notes(found, device, workers, most):
        say(f"note: {line}")
    shares = max(1, free_cores() // workers)
    environments = []
    for gpu in dealt:
        environment = {} if "OMP_NUM_THREADS" in os.environ else {"OMP_NUM_THREADS": str(threads or shares)}
        if environment and threads is None and shares > 1:
            environment[MOST_THREADS] = str(shares)
        if found.gpus and not device.startswith("cuda:"):
            environment[VARIABLE] = "" if gpu is None else gpu.names
        environments.append(environment)
    return environments


def models(environments: Sequence[dict[str, str]]) -> list[str]:
    """Models of the GPUs that `slots` has dealt out, each once."""
    dealt = [environment[VARIABLE] for environment in environments if VARIABLE in environment]
    known = {gpu.names: gpu.model for gpu in look().gpus} if dealt else {}
    return list(dict.fromkeys(known[names] for names in dealt if names in known))


def check(device: str) -> None:
    """Refuses what is no value of an option `device`, with an InputError."""
    if not re.fullmatch(r"auto|cpu|cuda(:\d{1,3})?", device):
        raise InputError(f"device: need auto, cpu, cuda or cuda:N, got {device!r}")


def assigned(found: Cuda, device: str, workers: int) -> list[Gpu | None]:
    """The GPU that each worker computes on; None: the CPU. Errors as of `usable`."""
    gpus = usable(found, device)
    return [gpus[i % len(gpus)] if gpus else None for i in range(workers)]


def auto_precision(capability: tuple[int, int] | None) -> str:
    """Precision that "auto" means on a GPU of this compute capability, or on the CPU (None): "bf16" or "fp32"."""
    return "bf16" if capability is not None and capability >= (8, 0) else "fp32"


def usable(found: Cuda, device: str) -> list[Gpu]:
    """The GPUs that the option `device` may mean, in CUDA's order; []: the CPU.

    Raises:
        InputError: There is no such device, or it cannot be used.
    """
    if device == "cpu":
        return []
    if found.hidden is not None:
        raise Hidden(f"{found.hidden}; name others, unset it, or give device=cpu")
    if device.startswith("cuda:"):
        index = int(device.removeprefix("cuda:"))
        if found.gpus and index >= len(found.gpus):
            count = f"there are {len(found.gpus)} CUDA devices" if len(found.gpus) > 1 else "there is 1 CUDA device"
            raise InputError(f"device {device}: {count}, numbered from 0; give a lower number")
        chosen = list(found.gpus[index : index + 1])
    else:
        chosen = list(found.gpus)
    good = [gpu for gpu in chosen if gpu.problem is None]
    if not good and device != "auto":
        reason = found.problem or next((gpu.problem for gpu in chosen), None) or "no CUDA device is visible"
        raise InputError(f"device {device}: {reason}; give device=cpu" + (" or another" if len(found.gpus) > 1 else ""))
    return good


def notes(found: Cuda, device: str, workers: int, most: int | None = None) -> list[str]:
    """Lines for the user about which worker gets which device. Arguments as of `slots`, errors as of `usable`."""
    if device == "cpu":
        return []
    gpus = usable(found, device)
    on_cpu = "" if gpus else "; so this runs on the CPU (device=cpu says so without this note)"
    told = [] if found.problem is None else [f"{found.problem}{on_cpu}"]
    if device.startswith("cuda:"):
        if workers > 1 and len(found.gpus) > 1:
            remedy = f"device=cuda deals out all {len(found.gpus)} GPUs"
            told.append(f"all {workers} workers are on {device} ({gpus[0].model}): {remedy}")
        return told
    problems = dict.fromkeys(gpu.problem for gpu in found.gpus if gpu.problem is not None)
    told += [f"{problem}{on_cpu or '; it is left out'}" for problem in problems]
    wanted = min(len(gpus), most or len(gpus))
    if workers < wanted:
        does = f"{workers} worker{'s' * (workers > 1)} on {workers} of {len(gpus)} GPUs"
        told.append(f"{does}: --workers {wanted} {'takes all' if wanted == len(gpus) else 'takes more'}")
    dealt = list(dict.fromkeys(gpu.model for gpu in gpus[:workers]))
    if len(dealt) > 1:
        told.append(f"the workers' GPUs are of different models, which round differently: {', '.join(dealt)}")
    return told


# --- what is there


def look(free: bool = False) -> Cuda:
    """GPUs that CUDA would show to a worker, from a process of its own: this one imports no torch and holds no device.

    Args:
        free: Also look how much memory is free now. Otherwise a process is asked only once.

    Raises:
        InputError: CUDA does not answer.
    """
    given = os.environ.get(VARIABLE)
    if free or given not in _looked:
        _looked[given] = _look(given, free)
    return _looked[given]


def looked() -> Cuda:
    """Result of an earlier `look`; nothing where nobody asked."""
    return _looked.get(os.environ.get(VARIABLE), Cuda())


_looked: dict[str | None, Cuda] = {}
"""Results by CUDA_VISIBLE_DEVICES; None: it was not set."""


def _look(given: str | None, free: bool) -> Cuda:
    if not _has_driver():
        problem = None
        if given not in NONE and _is_plugged_in():
            problem = (
                "an NVIDIA GPU is there, but no CUDA driver (libcuda.so.1): install one (a container takes --gpus)"
            )
        return Cuda((), problem, None if problem else _hidden(given, 0))
    entries = _entries(given)
    if len(entries) > 1 and any(entry.startswith("MIG-") for entry in entries):
        # CUDA shows one such instance to a process, however many the variable names.
        each = _ask([{VARIABLE: entry} for entry in entries], free)
        gpus = tuple(replace(gpu, index=i) for i, one in enumerate(each) for gpu in one.gpus[:1])
        first = next((one for one in each if one.problem or one.hidden), Cuda())
        return Cuda(gpus, first.problem, first.hidden)
    (found,) = _ask([{}], free)
    if found.hidden is None:
        return found
    (all_there,) = _ask([{}], False, unset=True)
    return replace(found, hidden=f"{found.hidden}; {_listed(all_there.gpus, uuids='GPU-' in (given or ''))}")


def _listed(gpus: Sequence[Gpu], uuids: bool) -> str:
    """The GPUs, for people who gave a name that is none. uuids: they named devices so, which may be abbreviated."""
    if not gpus:
        return "there is none"
    if uuids:
        return f"there are {', '.join((gpu.uuid or gpu.names)[:12] for gpu in gpus)}"
    of_model: dict[str, list[str]] = {}
    for gpu in gpus:
        of_model.setdefault(gpu.model, []).append(gpu.names)
    return "there are " + ", ".join(f"{' '.join(names)} ({model})" for model, names in of_model.items())


def _ask(environments: Sequence[dict[str, str]], free: bool, unset: bool = False) -> list[Cuda]:
    """GPUs that CUDA shows in each of these environments. unset: where CUDA_VISIBLE_DEVICES is not set at all."""
    asked = [WorkerProcess(_answer, (free, unset), name="nastool-devices", environment=each) for each in environments]
    found: list[Cuda] = []
    remedy = ": see nvidia-smi, or give device=cpu"
    try:
        for process in asked:
            if not process.connection.poll(ASK_SECONDS):
                raise InputError(f"CUDA says nothing of its devices in {ASK_SECONDS:.0f} s{remedy}")
            try:
                answer = process.connection.recv()
            except (EOFError, OSError):
                raise InputError(f"the process that asks CUDA for its devices died{remedy}") from None
            if isinstance(answer, str):
                raise InputError(f"CUDA cannot be asked for its devices: {answer}{remedy}")
            found.append(answer)
    finally:
        for process in asked:
            process.kill()
    return found


def _answer(connection: Connection, free: bool, unset: bool) -> None:
    """The body of the process that is asked."""
    if unset:
        os.environ.pop(VARIABLE, None)
    try:
        told = None if free else driver.gpus()
        connection.send(seen(free) if told is None else _named(told))
    except Exception as error:
        connection.send(one_line(error))


def seen(free: bool = False) -> Cuda:
    """GPUs that CUDA shows to this process; imports torch.

    Args:
        free: Also look how much memory is free, which takes some itself.
    """
    import torch

    with warnings.catch_warnings(record=True) as told:  # torch's, of several lines, on what `problem` says in one
        warnings.simplefilter("always")
        try:
            if count := torch.cuda.device_count() if torch.cuda.is_available() else 0:
                torch.cuda.init()  # type: ignore[no-untyped-call]  # torch's stub
                count = torch.cuda.device_count()  # CUDA's own; before, NVML may have been asked
            reason = str(told[0].message) if told and not count else ""
        except (RuntimeError, torch.cuda.DeferredCudaCallError) as error:
            count, reason = 0, str(error)
    if not count:
        given = os.environ.get(VARIABLE)
        problem = _problem(reason) if given not in NONE else None
        return Cuda((), problem, None if problem else _hidden(given, 0))
    architectures, gpus = torch.cuda.get_arch_list(), []
    for i in range(count):
        about = torch.cuda.get_device_properties(i)
        capability, uuid = (about.major, about.minor), getattr(about, "uuid", None)
        fits = torch.version.cuda is None or runs_on(capability, architectures)
        problem = None if fits else _misfit(about.name, capability, architectures)
        free_bytes = _free(i) if free else None
        gpus.append(Gpu(i, "", about.name, uuid and str(uuid), capability, about.total_memory, free_bytes, problem))
    return _named(gpus)


def _named(gpus: Sequence[Gpu]) -> Cuda:
    """All GPUs that CUDA shows, with the names that CUDA_VISIBLE_DEVICES has for them."""
    given, found = os.environ.get(VARIABLE), []
    names = _entries(given)
    for i, gpu in enumerate(gpus):
        name = names[i] if i < len(names) else str(i)
        kind = "MIG" if name.startswith("MIG-") else "GPU"
        found.append(replace(gpu, names=name, uuid=gpu.uuid and f"{kind}-{gpu.uuid}"))
    return Cuda(tuple(found), None, _hidden(given, len(gpus)))


def _free(index: int) -> int | None:
    """Bytes; None: somebody else has the device for himself, say."""
    import torch

    try:
        return int(torch.cuda.mem_get_info(index)[0])
    except RuntimeError:
        return None


def _entries(given: str | None) -> list[str]:
    """Entries of CUDA_VISIBLE_DEVICES, if it is set; a -1 that ends the list is none of them."""
    names = [] if given is None or given in NONE else [name.strip() for name in given.split(",")]
    return names[:-1] if names[-1:] in (["-1"], [""]) else names


def _hidden(given: str | None, count: int) -> str | None:
    """Entry of the variable that CUDA, which shows so many devices, does not show; None: there is none."""
    entries = _entries(given)
    if len(entries) <= count or (count and entries[0].startswith("MIG-")):
        return None
    if count or len(entries) == 1:
        after = " and none after it" if len(entries) > count + 1 else ""
        why = f"CUDA shows no device {short(entries[count])!r}{after}"
    else:
        why = "CUDA shows none of these: the list ends at the first that is no device, and one named twice hides all"
    return f"{VARIABLE}={short(given)}: {why}"


def _problem(told: str) -> str | None:
    """Why CUDA shows no device, in a line, from what torch says of it; None: there seems to be none."""
    import torch

    if old := re.search(r"too old \(found version (\d+)\)", told):
        has = f"{int(old[1]) // 1000}.{int(old[1]) % 1000 // 10}"
        needs = f"torch {torch.__version__} is built for CUDA {torch.version.cuda}"
        return f"the NVIDIA driver is too old: it has CUDA {has}, {needs}; update it, or install a torch for CUDA {has}"
    if told:
        error = re.search(r"Error (\d+: .*?)(?= \(Triggered|$)|(CUDA unknown error)", told)
        what = (error[1] or f"999: {error[2]}") if error else short(told, 120)
        return f"CUDA does not start (error {what}): see nvidia-smi; after an update of the driver, restart the machine"
    if not _is_plugged_in():
        return None
    if torch.version.cuda is None:
        return f"an NVIDIA GPU is there, but torch {torch.__version__} is built without CUDA: install one with it"
    return "an NVIDIA GPU is there, but CUDA shows none: see nvidia-smi (a container takes --gpus)"


def runs_on(capability: tuple[int, int], architectures: Sequence[str]) -> bool:
    """Whether code for these architectures ("sm_80", "compute_90") runs on a GPU of this compute capability.

    Machine code runs on the same major version from its minor version on, and what is compiled at run time (compute_)
    on all later ones; what ends in a letter only there (NVIDIA, CUDA C++ Programming Guide, 3.1).
    """
    for architecture in architectures:
        found = re.fullmatch(r"(sm|compute)_(\d+)(\d)([af]?)", architecture)
        if found is None:
            continue
        built, only_there = (int(found[2]), int(found[3])), found[4]
        goes_on = found[1] == "compute" or built[0] == capability[0]
        if built == capability or (not only_there and built < capability and goes_on):
            return True
    return False


def _misfit(model: str, capability: tuple[int, int], architectures: Sequence[str]) -> str:
    import torch

    has = " ".join(architectures) or "none"
    needs = f"torch {torch.__version__} is built for {has}"
    return f"{model} has compute capability {capability[0]}.{capability[1]}, and {needs}"


def _has_driver() -> bool:
    """Whether there is anything to ask for GPUs: torch asks NVIDIA's library, or AMD's device."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return (ROOT / "dev/kfd").exists()
    return True


def _is_plugged_in() -> bool:
    """Whether there is an NVIDIA GPU, as far as Linux knows."""
    if any(ROOT.glob("dev/nvidia[0-9]*")) or (ROOT / "proc/driver/nvidia").exists():
        return True
    for vendor in ROOT.glob("sys/bus/pci/devices/*/vendor"):
        try:
            if vendor.read_text().strip() == "0x10de" and (vendor.parent / "class").read_text().startswith("0x03"):
                return True
        except OSError:
            continue
    return False


# --- the CPU


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
    try:
        return len(os.sched_getaffinity(0))
    except (AttributeError, OSError):  # of Linux, where a container may refuse it
        return os.cpu_count() or 1


def free_cores() -> int:
    """Number of cores that a container's limit allows and that nobody is using now; at least 1."""
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
