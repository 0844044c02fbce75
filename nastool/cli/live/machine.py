"""Use that a search makes of this machine, as far as it can be read cheaply and without touching a device."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from nastool.nets import devices

PROC = Path("/proc")
SECONDS = 2.0
"""Seconds between two looks; the GPUs' own tool takes its time, and is not waited for."""


class Machine:
    """Facts for people, such as "812 MiB in 2 workers". Close it at the end."""

    def __init__(self, gpus: bool = True) -> None:
        self._facts: tuple[str, ...] = ()
        self._looked = -SECONDS
        self._tool = shutil.which("nvidia-smi") if gpus and devices.looked().gpus else None
        self._asked: subprocess.Popen[str] | None = None
        self._gpus: tuple[str, ...] = ()

    def facts(self, now: float) -> tuple[str, ...]:
        if now - self._looked >= SECONDS:
            self._looked = now
            self._ask_gpus()
            self._facts = (*self._gpus, *filter(None, (_memory(), _load())))
        return self._facts

    def close(self) -> None:
        if self._asked is not None:
            self._asked.kill()
            self._asked.communicate()
            self._asked = None

    def _ask_gpus(self) -> None:
        """Take the tool's answer, if it has one by now, and ask again."""
        if self._tool is None:
            return
        if self._asked is not None:
            if self._asked.poll() is None:
                return
            answer = self._asked.communicate()[0]
            if self._asked.returncode:
                self._tool = None  # there is no device, or it does not answer: it is not asked again
            else:
                self._gpus = gpu_facts(answer, devices.looked().gpus)
        if self._tool is None:
            self._asked = None
            return
        command = [
            self._tool,
            "--query-gpu=uuid,memory.used,memory.total,utilization.gpu",
            "--format=csv,noheader,nounits",
        ]
        try:
            self._asked = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
            )
        except OSError:
            self._tool = self._asked = None


def gpu_facts(answer: str, gpus: Sequence[devices.Gpu]) -> tuple[str, ...]:
    """One fact a GPU from nvidia-smi's lines "UUID, MiB used, MiB in all, % busy", as CUDA numbers them.

    Args:
        answer: Those lines.
        gpus: GPUs that CUDA shows. nvidia-smi numbers them by their place in the machine, CUDA has the fastest first.
    """
    fields = (line.split(",") for line in answer.splitlines())
    known = {each[0].strip(): [field.strip() for field in each[1:]] for each in fields if len(each) == 4}
    found = []
    for gpu in gpus:
        if gpu.uuid not in known:
            continue
        used, total, busy = known[gpu.uuid]
        if not (used.isdigit() and total.isdigit()):
            continue
        share = f" {busy}%" if busy.isdigit() else ""
        found.append(f"gpu {gpu.index}: {int(used) / 1024:.1f} of {int(total) / 1024:.0f} GiB{share}")
    return tuple(found)


def _memory() -> str | None:
    """Memory of this process's workers, or, where it has none, its own. None: there is no /proc.

    What they have of the process that forked them they share, mostly, so it counts once.
    """
    try:
        children = (PROC / f"self/task/{os.getpid()}/children").read_text().split()
        names = {pid: (PROC / pid / "comm").read_text() for pid in children}
        workers = [pid for pid, name in names.items() if name.startswith("nastool-worker")]
        shared = max((_resident(pid) for pid, name in names.items() if name.startswith("nastool-forks")), default=0)
        size = shared + sum(max(0, _resident(pid) - shared) for pid in workers) if workers else _resident("self")
    except (OSError, ValueError, IndexError):
        return None
    text = f"{size / 2**20:,.0f} MiB" if size < 2**30 else f"{size / 2**30:.1f} GiB"
    return f"{text} in {len(workers)} worker{'s' * (len(workers) > 1)}" if workers else text


def _resident(process: str) -> int:
    return int((PROC / process / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _load() -> str | None:
    try:
        load = os.getloadavg()[0]
    except OSError:
        return None
    cores = devices.usable_cores()
    return f"load {load:.1f} on {cores} core{'s' * (cores > 1)}"
