"""Jobs in workers that Slurm starts, by its own commands: sbatch, squeue, scancel."""

from __future__ import annotations

import getpass
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from hashlib import blake2s

from nastool.core.errors import InputError, short
from nastool.engine.executors.base import Setting
from nastool.engine.executors.cluster import Cluster
from nastool.engine.executors.jobs import EvaluatorSpec

COMMAND_SECONDS = 120
"""Seconds that one of Slurm's commands may take."""
BUSY = ("Unable to contact", "Socket timed out", "temporarily")
"""What Slurm says where it may answer a little later."""
THERE = frozenset(
    "PENDING CONFIGURING RUNNING COMPLETING SUSPENDED STOPPED REQUEUED REQUEUE_HOLD REQUEUE_FED SIGNALING "
    "STAGE_OUT RESIZING SPECIAL_EXIT".split()
)
"""States of jobs that have not ended for good; the others, such as TIMEOUT or NODE_FAIL, say how one has."""


class Slurm(Cluster):
    """Carries out trials in workers that are Slurm jobs of one task each.

    They join whenever Slurm starts them and leave when it takes them away; the search goes on with those that are
    there. The run's folder has to lie where all nodes see it. Jobs that still wait are cancelled with the search.
    squeue is asked only while workers are missing, once in ten seconds.
    """

    name = "slurm"

    def __init__(
        self,
        spec: EvaluatorSpec,
        workers: int,
        setting: Setting,
        *,
        partition: str | None = None,
        gpus: str | None = None,
        cpus: int = 1,
        memory: str | None = None,
        time: str | None = None,
        account: str | None = None,
        flags: str | None = None,
        host: str | None = None,
    ) -> None:
        """Makes an executor.

        Args:
            spec, workers, setting: As of `Cluster`.
            partition: Partition that the workers' jobs go to.
            gpus: GPUs of each worker, such as 1 or a100:1.
            cpus: Cores of each worker.
            memory: Memory of each worker, such as 16G.
            time: Length of time that Slurm gives to each worker's job, such as 4:00:00; afterwards another is asked
                for, and the trial that ran begins again.
            account: Account that is charged.
            flags: Further options of sbatch, such as "--qos=low --constraint=a100".
            host: Name or address under which nodes reach this machine; by default its own name.
        """
        if cpus < 1:
            raise ValueError(f"need cpus >= 1, got {cpus}")
        super().__init__(spec, workers, setting, cpus=cpus, host=host)
        found = {
            "partition": partition,
            "gpus": gpus,
            "cpus-per-task": cpus,
            "mem": memory,
            "time": time,
            "account": account,
        }
        self._flags = [f"--{name}={value}" for name, value in found.items() if value is not None]
        try:
            self._flags += shlex.split(flags or "")
        except ValueError as error:
            raise InputError(f"executor slurm: option flags: {error}") from None
        digest = blake2s(os.fsencode(self.file), digest_size=4).hexdigest()
        self._name = f"nastool-{digest}"
        """Of all jobs for this folder, in which one coordinator is at work: others of that name are of a dead one."""
        self._jobs: dict[int, str] = {}

    def prepare(self) -> None:
        if shutil.which("sbatch") is None:
            raise InputError("executor slurm: sbatch is not there: give the command on a machine that has Slurm's")
        self._jobs.clear()
        self.dismiss()

    def ask(self, number: int) -> None:
        log = self.logs / f"worker-{number}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        words = [sys.executable, "-m", "nastool.engine.executors.places", str(self.file), str(number)]
        output = str(log).replace("%", "%%")
        about = [f"--job-name={self._name}", f"--output={output}", "--open-mode=append", "--nodes=1", "--ntasks=1"]
        answer = _run(["sbatch", "--parsable", *about, *self._flags], f"#!/bin/sh\nexec {shlex.join(words)}\n")
        self._jobs[number] = answer.strip().partition(";")[0]

    def endings(self) -> Mapping[int, str]:
        states: dict[str, str] = {}
        try:
            answer = _run(["squeue", "--noheader", "--states=all", "--format=%i %T", *self._mine])
        except InputError:
            return {}  # it may answer next time
        for line in answer.splitlines():
            job, _, state = line.strip().partition(" ")
            states[job] = state.strip()
        return {
            number: self._said(number, job, states.get(job, "it has ended"))
            for number, job in self._jobs.items()
            if states.get(job) not in THERE
        }

    def _said(self, number: int, job: str, state: str) -> str:
        """How a job ended, with the last line that it printed: it may say why."""
        cancelled = "cancelled by somebody: " if state.startswith("CANCELLED") else ""
        if self.places[number].joined:
            return f"{cancelled}Slurm job {job}: {state}"
        log, last = self.logs / f"worker-{number}.log", ""
        with suppress(OSError):
            lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
            last = next((line for line in reversed(lines) if line.strip()), "")
        seen = short(last, 250) or f"it printed nothing: do its node and this one both see {log.parent}?"
        return f"{cancelled}Slurm job {job} ended before its worker joined ({state}): {seen}"

    @property
    def _mine(self) -> Sequence[str]:
        return f"--name={self._name}", f"--user={getpass.getuser()}"

    def give_back(self, number: int) -> None:
        if (job := self._jobs.pop(number, None)) is not None:
            with suppress(InputError):
                _run(["scancel", job])

    def dismiss(self) -> None:
        with suppress(InputError):
            _run(["scancel", *self._mine])


def _run(words: Sequence[str], script: str = "") -> str:
    """Output of one of Slurm's commands, which is repeated where Slurm does not answer.

    Args:
        words: The command.
        script: What it reads.

    Raises:
        InputError: It failed; the message is what it says.
    """
    said = ""
    for _ in range(3):
        try:
            done = subprocess.run(words, input=script, capture_output=True, text=True, timeout=COMMAND_SECONDS)
        except (OSError, subprocess.SubprocessError) as error:
            raise InputError(f"{words[0]}: {error}") from None
        if done.returncode == 0:
            return done.stdout
        said = " ".join(done.stderr.replace(f"{words[0]}: error: ", "").split()) or f"exit code {done.returncode}"
        if not any(text in said for text in BUSY):
            break
        time.sleep(2)
    raise InputError(f"{words[0]}: {said}")
