"""A stand-in for Slurm on this machine: sbatch, squeue and scancel, as their manuals say, for what the executor uses.

Every job has a keeper, a process that holds it back while it pends, starts it on a free "node", and ends it: on
scancel, or where a test has it reach its time limit, pre-empts it, or has its node fail. A job that is ended gets
SIGTERM and after a while SIGKILL, and so do all its processes.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

COMMON = """
import fcntl, glob, json, os, signal, subprocess, sys, time
ROOT = os.environ["FAKE_SLURM"]

def path(job, end="json"):
    return os.path.join(ROOT, f"{job}.{end}")

def read(job):
    with open(path(job)) as file:
        return json.load(file)

def write(job, **change):
    about = {**read(job), **change} if os.path.exists(path(job)) else change
    with open(path(job, "new"), "w") as file:
        json.dump(about, file)
    os.replace(path(job, "new"), path(job))

def jobs():
    return sorted(int(os.path.basename(name)[:-5]) for name in glob.glob(os.path.join(ROOT, "[0-9]*.json")))

class Locked:
    def __enter__(self):
        self.file = open(os.path.join(ROOT, "lock"), "w")
        fcntl.flock(self.file, fcntl.LOCK_EX)
    def __exit__(self, *error):
        self.file.close()

def options(known, flags=()):
    found = {}
    for word in sys.argv[1:]:
        name, _, value = word.partition("=")
        if name.removeprefix("--") not in known:
            print(f"{os.path.basename(sys.argv[0])}: unrecognized option '{name}'", file=sys.stderr)
            sys.exit(1)
        found[name.removeprefix("--")] = value
    return found
"""

SBATCH = """
found = options({"parsable", "job-name", "output", "open-mode", "nodes", "ntasks", "partition", "gpus", "cpus-per-task",
                 "mem", "time", "account", "qos", "requeue"})
if found.get("partition") == "nowhere":
    print("sbatch: error: invalid partition specified: nowhere", file=sys.stderr)
    print("sbatch: error: Batch job submission failed: Invalid partition name specified", file=sys.stderr)
    sys.exit(1)
assert found["open-mode"] == "append" and found["nodes"] == found["ntasks"] == "1"
with Locked():
    job = max(jobs(), default=0) + 1
    write(job, state="PENDING", name=found["job-name"], output=found["output"], script=sys.stdin.read(),
          cwd=os.getcwd(), requeue="requeue" in found, flags=found)
quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
subprocess.Popen([sys.executable, os.path.join(os.path.dirname(sys.argv[0]), "keeper"), str(job)],
                 start_new_session=True, **quiet)
print(job if "parsable" in found else f"Submitted batch job {job}")
"""

SQUEUE = """
found = options({"noheader", "states", "format", "name", "user"})
assert found["format"] == "%i %T" and found["states"] == "all"
for job in jobs():
    about = read(job)
    if about["name"] == found["name"] and not about.get("forgotten"):
        print(job, about["state"])
"""

SCANCEL = """
given = [word for word in sys.argv[1:] if word.isdecimal()]
sys.argv[1:] = [word for word in sys.argv[1:] if word not in given]
found = options({"name", "user"})
for job in jobs():
    if str(job) in given or (not given and read(job)["name"] == found["name"]):
        open(path(job, "cancel"), "w").close()
"""

KEEPER = """
job = int(sys.argv[1])

def ordered(what):
    try:
        os.unlink(path(job, what))
        return True
    except FileNotFoundError:
        return False

def nodes():
    with open(os.path.join(ROOT, "nodes")) as file:
        return int(file.read())

def end(process, grace):
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number if grace else signal.SIGKILL)
            process.wait(grace or None)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            pass
    process.wait()

def pend():
    while True:
        if ordered("cancel"):
            write(job, state="CANCELLED")
            sys.exit()
        with Locked():
            running = sum(read(other)["state"] == "RUNNING" for other in jobs())
            if running < nodes() and all(read(other)["state"] != "PENDING" for other in jobs() if other < job):
                write(job, state="RUNNING")
                return
        time.sleep(0.05)

while True:
    pend()
    about = read(job)
    try:
        output = open(about["output"].replace("%%", "%"), "a")
    except OSError:
        write(job, state="FAILED")
        break
    script = path(job, "sh")
    with open(script, "w") as file:
        file.write(about["script"])
    process = subprocess.Popen(["/bin/sh", script], cwd=about["cwd"], stdin=subprocess.DEVNULL, stdout=output,
                               stderr=output, start_new_session=True)
    write(job, pid=process.pid)
    state = None
    while state is None:
        if process.poll() is not None:
            state = "COMPLETED" if process.returncode == 0 else "FAILED"
        elif ordered("cancel"):
            state = "CANCELLED"
        elif ordered("fail"):
            state = "NODE_FAIL"
        elif ordered("preempt"):
            state = "PREEMPTED"
        elif ordered("timeout"):
            state = "TIMEOUT"
        time.sleep(0.02)
    end(process, grace=0 if state == "NODE_FAIL" else 0.5)
    if about["requeue"] and state in ("NODE_FAIL", "PREEMPTED"):
        write(job, state="PENDING", starts=about.get("starts", 1) + 1)
        continue
    write(job, state=state)
    break
"""


class FakeSlurm:
    """Slurm with a few nodes.

    Attributes:
        folder: Where it is; programs in folder/bin, and what it knows of jobs beside it.
    """

    def __init__(self, folder: Path, nodes: int) -> None:
        self.folder = folder
        programs = folder / "bin"
        programs.mkdir(parents=True)
        for name, text in {"sbatch": SBATCH, "squeue": SQUEUE, "scancel": SCANCEL, "keeper": KEEPER}.items():
            (programs / name).write_text(f"#!{sys.executable} -S\n{COMMON}{text}")
            (programs / name).chmod(0o755)
        self.nodes = nodes

    @property
    def nodes(self) -> int:
        return int((self.folder / "nodes").read_text())

    @nodes.setter
    def nodes(self, count: int) -> None:
        (self.folder / "nodes.new").write_text(str(count))
        (self.folder / "nodes.new").replace(self.folder / "nodes")

    @property
    def environment(self) -> dict[str, str]:
        return {"PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}", "FAKE_SLURM": str(self.folder)}

    def jobs(self) -> dict[int, dict[str, object]]:
        return {int(file.stem): json.loads(file.read_text()) for file in self.folder.glob("[0-9]*.json")}

    def states(self) -> list[str]:
        return [str(about["state"]) for _, about in sorted(self.jobs().items())]

    def running(self) -> list[int]:
        return sorted(job for job, about in self.jobs().items() if about["state"] == "RUNNING")

    def order(self, job: int, what: str) -> None:
        """Have a job cancelled ("cancel"), pre-empted ("preempt"), reach its time limit, or its node fail ("fail")."""
        (self.folder / f"{job}.{what}").touch()

    def settle(self) -> None:
        """Wait until no job is left."""
        end = time.monotonic() + 60
        while any(state in ("PENDING", "RUNNING") for state in self.states()):
            assert time.monotonic() < end, self.jobs()
            time.sleep(0.05)


@contextmanager
def fake_slurm(folder: Path, monkeypatch: pytest.MonkeyPatch, nodes: int = 2) -> Iterator[FakeSlurm]:
    """Slurm for this process and those that it starts; afterwards whatever runs there is ended."""
    slurm = FakeSlurm(folder, nodes)
    for name, value in slurm.environment.items():
        monkeypatch.setenv(name, value)
    try:
        yield slurm
    finally:
        for job in slurm.jobs():
            slurm.order(job, "cancel")
        slurm.settle()
