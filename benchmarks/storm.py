"""A storm over nastool: kills at any moment, and inputs that are none.

usage: storm.py kills [--kills 200] [--only NAME] [--seed 0]
       storm.py fuzz [--inputs 100000] [--commands 500] [--seed 0]

`kills` ends searches with SIGKILL (the whole group, the coordinator or a worker; at random moments, also while they
begin), gives the same command again until the search is done, and compares: of every strategy, with 1, 2 and 4 workers.
Lost: a trial that was told and is not there, or another, afterwards. Doubled: told twice. Orphans: processes that
outlive their coordinator by 5 seconds. With one worker the result has to be that of an undisturbed search.

`fuzz` changes good inputs at random: lines of architectures, configurations, recipes, options, run.db (its bytes and
its values), .npz files, metadata of checkpoints; most are read in this process, some by whole commands. Each has to be
accepted, or refused by one line, within 5 s of processor time and 2 GB of memory. Nothing outside of the folder at hand
may be opened, but what Python and nastool themselves consist of; a folder beside it, whose path many inputs name, stays
as it is.

Exit code 1 where anything of that fails.
"""

from __future__ import annotations

import argparse
import copy
import faulthandler
import gc
import io
import itertools
import json
import os
import random
import re
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import closing, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from tests.helpers.plugins import sleepy

NASTOOL = [sys.executable, "-m", "nastool"]
MARK = "NASTOOL_STORM"
"""In the environment of every process of the storm, so that those left over can be found."""
KINDS = ("group", "coordinator", "worker", "server")
Row = tuple[Any, ...]

# --- kills


@dataclass(frozen=True)
class Case:
    """A search that is killed. options: of the command; trials: how many it has in all."""

    name: str
    options: tuple[str, ...]
    trials: int
    workers: int

    @property
    def label(self) -> str:
        return f"{self.name:<32} {self.workers} worker{'s' * (self.workers > 1)}"


@dataclass
class Tally:
    """What the kills of a case did. identical: as the undisturbed search; None: it need not be."""

    kills: Counter[str] = field(default_factory=Counter)
    lost: int = 0
    doubled: int = 0
    running: int = 0
    orphans: int = 0
    failed: int = 0
    identical: bool | None = None

    @property
    def sound(self) -> bool:
        return not (self.lost or self.doubled or self.running or self.orphans or self.failed or self.identical is False)

    def __str__(self) -> str:
        kills = ", ".join(f"{self.kills[kind]} {kind}" for kind in KINDS)
        same = {None: "-", True: "identical", False: "DIFFERENT"}[self.identical]
        return (
            f"{self.kills.total():>3} kills ({kills})  lost {self.lost}  doubled {self.doubled}  "
            f"running {self.running}  orphans {self.orphans}  failed {self.failed}  {same}"
        )


def cases(table: Path) -> list[Case]:
    """Every strategy with 1, 2 and 4 workers, and those that can with a table, which needs none."""
    sleepy = ("--evaluator", "sleepy")
    tiny = "--data digits -E train_size=60 --device cpu --scale channels=2,cells=1"
    strategies: dict[str, tuple[tuple[str, ...], int]] = {
        "random": ((*sleepy,), 80),
        "evolution": ((*sleepy, "-S", "population=8"), 80),
        "local-search": ((*sleepy, "-S", "init=5"), 80),
        "bananas": ((*sleepy, "-S", "init=8", "-S", "batch=3", "-S", "epochs=30"), 60),
        "bo": ((*sleepy, "-S", "init=8", "-S", "batch=3"), 60),
        "reinforce": ((*sleepy, "-S", "batch=4"), 60),
        "network-morphism": (
            ("--evaluator", "sleepy-heir", "-S", "steps=9", "-S", "morphisms=2", "-S", "final_epochs=2", "--keep", "1"),
            74,
        ),
        "enas": (
            tuple(f"--space nasbench201 {tiny} --epochs 8 --retrain 0 -S steps=2 -S candidates=4".split()),
            12,
        ),
    }
    found = [
        Case(name, ("-s", name, *options, "-n", str(trials)), trials, workers)
        for name, (options, trials) in strategies.items()
        for workers in (1, 2, 4)
    ]
    in_table = ("--evaluator", "table", "-E", f"file={table}")
    more = {"random": 3000, "evolution": 3000, "local-search": 2000, "bananas": 120, "bo": 80}
    found += [
        Case(f"{name} (table)", ("-s", name, *in_table, "-n", str(trials)), trials, 1) for name, trials in more.items()
    ]
    return found


def kills(count: int, seed: int, folder: Path, only: str = "", say: Callable[[str], None] = print) -> dict[str, Tally]:
    """At least so many kills, spread evenly over the cases. only: those so named. say: is told of each."""
    environment = sleepy(folder / "plugin") | {"OMP_NUM_THREADS": "1", "NASTOOL_SEARCH_REPORT": "0", MARK: str(folder)}
    every = [case for case in cases(make_table(folder)) if only in case.label]
    each = -(-count // len(every))
    tallies: dict[str, Tally] = {}
    for number, case in enumerate(every):
        command = [*NASTOOL, "search", *case.options, "--workers", str(case.workers), "--out"]
        place = folder / str(number)
        tally = _storm(case, [*command, str(place)], environment, place, each, random.Random(f"{seed}/{number}"))
        if case.workers == 1:
            subprocess.run([*command, f"{place}w"], env=environment, check=True, capture_output=True)
            tally.identical = _rows(place) == _rows(Path(f"{place}w"))
        tallies[case.label] = tally
        say(f"{case.label}  {tally}")
    return tallies


def _storm(
    case: Case, command: list[str], environment: dict[str, str], place: Path, kills: int, rng: random.Random
) -> Tally:
    """Kill a search so many times on its way, then let it end."""
    tally = Tally()
    known: dict[int, Row] = {}
    while tally.kills.total() < kills:
        process = subprocess.Popen(
            command,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
            text=True,
        )
        with process:
            while tally.kills.total() < kills:
                _wait(process, place, case.trials * (tally.kills.total() + rng.random()) / (kills + 1), rng)
                if process.poll() is not None:
                    break
                kind = rng.choice(KINDS)
                workers, servers = (_children(process.pid, name) for name in ("nastool-worker", "nastool-forks"))
                known |= _told(place)
                if kind == "worker" and (not workers or _retried(place)):
                    kind = "group"  # a trial whose worker dies twice is a failed one, as it should
                if kind == "server" and not servers:
                    kind = "coordinator"
                if kind in ("worker", "server"):
                    _kill(rng.choice(workers if kind == "worker" else servers))
                    tally.kills[kind] += 1
                    continue
                (_kill_group if kind == "group" else _kill)(process.pid)
                tally.kills[kind] += 1
                break
            err = process.communicate(timeout=300)[1]
        if "Traceback" in err or "internal error" in err:
            tally.failed += 1
            print(err, file=sys.stderr)
        tally.orphans += _orphans(environment[MARK])
        now = _told(place)
        tally.lost += sum(now.get(trial) != row for trial, row in known.items())
        if len(now) == case.trials and process.returncode == 0:
            break  # it was quicker than we
    for _ in range(3):  # the last worker may have been killed while it began
        result = subprocess.run(command, env=environment, capture_output=True, text=True)
        if result.returncode == 0:
            break
    if result.returncode or "Traceback" in result.stderr:
        tally.failed += 1
        print(result.stderr, file=sys.stderr)
    rows = _rows(place)
    told = sorted(row[1] for row in rows if row[1] is not None)
    tally.lost += len({*range(case.trials)} - {row[0] for row in rows})
    tally.doubled += len(told) - len({*told})
    tally.running += sum(row[2] == "running" for row in rows)
    tally.lost += sum(dict((row[0], row) for row in rows).get(trial) != row for trial, row in known.items())
    tally.orphans += _orphans(environment[MARK])
    return tally


def make_table(folder: Path) -> Path:
    """Made-up results of all of nasbench201."""
    from nastool.spaces.nasbench201 import NasBench201

    archs = np.array([arch.choices for arch in NasBench201().members()], dtype=np.uint8)
    path = folder / "table.npz"
    np.savez(path, allow_pickle=False, arch=archs, val200=np.random.default_rng(0).uniform(50, 90, len(archs)))
    return path


def _retried(place: Path) -> bool:
    """Whether a trial that is running has lost a worker before."""
    try:
        with closing(sqlite3.connect(f"file:{place / 'run.db'}?mode=ro", uri=True)) as db:
            found = db.execute("SELECT COUNT(*) FROM trials WHERE state = 'running' AND attempts > 1").fetchone()
    except sqlite3.Error:
        return False
    return bool(found[0])


def _rows(place: Path) -> list[Row]:
    """All that must not depend on kills; times do."""
    measured = "json_extract(evaluation, '$.metrics'), json_extract(evaluation, '$.policy')"
    columns = f"id, told, state, proposal, loss, error, {measured}"
    try:
        with closing(sqlite3.connect(f"file:{place / 'run.db'}?mode=ro", uri=True)) as db:
            rows = db.execute(f"SELECT {columns} FROM trials ORDER BY id").fetchall()
    except sqlite3.Error:
        return []
    return [tuple(_timeless(value) for value in row) for row in rows]


def _timeless(value: Any) -> Any:
    """Without what differs from process to process."""
    return re.sub(r"/\S*/logs/", "logs/", value) if isinstance(value, str) else value


def _told(place: Path) -> dict[int, Row]:
    return {row[0]: row for row in _rows(place) if row[1] is not None}


def _wait(process: subprocess.Popen[str], place: Path, enough: float, rng: random.Random) -> None:
    """Until so many trials are told and a moment more, or, one time in four, just a while."""
    until = time.monotonic() + (rng.uniform(0, 1.5) if rng.random() < 0.25 else 120)
    while process.poll() is None and time.monotonic() < until and len(_told(place)) < enough:
        time.sleep(0.01)
    time.sleep(rng.uniform(0, 0.05))


def _children(pid: int, name: str) -> list[int]:
    """Those of a process whose names begin so."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return [int(child) for child in children if Path(f"/proc/{child}/comm").read_text().startswith(name)]
    except OSError:
        return []


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def _kill_group(pid: int) -> None:
    os.killpg(pid, signal.SIGKILL)


def _orphans(mark: str) -> int:
    """Processes of the storm that are still alive after 5 seconds; they are ended."""
    until = time.monotonic() + 5
    while (left := _marked(mark)) and time.monotonic() < until:
        time.sleep(0.05)
    for pid in left:
        _kill(pid)
    return len(left)


def _marked(mark: str) -> list[int]:
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            alive = (entry / "stat").read_text().rpartition(") ")[2][0] not in "ZX"
            if alive and f"{MARK}={mark}".encode() in (entry / "environ").read_bytes().split(b"\0"):
                found.append(int(entry.name))
        except OSError:
            continue
    return found


# --- fuzz

SECONDS, BYTES = 5.0, 2 << 30
NUMBERS = ["NaN", "Infinity", "-1e400", "1" + "0" * 400, "-1", "0", "1e-320", "9223372036854775808", "0.1", "2.5"]
ODD: list[Any] = [
    None,
    True,
    -1,
    0,
    2**63,
    -(2**63) - 1,
    10**400,
    float("nan"),
    float("inf"),
    -0.0,
    1e308,
    "",
    "x",
    "\x1b[2J\x1b]0;a\x07",
    "\ud800",
    "\0",
    "=1+1",
    "../beside/victim.txt",
    "a" * 3000,
    [],
    {},
    [[]],
    [None],
    {"name": "nasbench201"},
    "nasbench201",
    ["1"] * 50,
]


@dataclass
class Found:
    """What a fuzz did. seconds, bytes: the most that one input took. problems: a line each."""

    inputs: Counter[str] = field(default_factory=Counter)
    accepted: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    bytes: int = 0
    problems: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        parts = ", ".join(f"{kind} {count:,} ({self.accepted[kind]:,} accepted)" for kind, count in self.inputs.items())
        most = f"at most {self.seconds:.2f} s of processor time and {self.bytes / 2**20:,.0f} MiB"
        return f"{self.inputs.total():,} inputs: {parts}; {most}; {len(self.problems)} problems"

    def problem(self, kind: str, what: str) -> None:
        self.problems.append(f"{kind}: {what}")
        print(self.problems[-1], file=sys.stderr)


class Mutator:
    """Good things made bad."""

    def __init__(self, rng: random.Random, beside: Path) -> None:
        self.rng = rng
        self.odd = [*ODD, str(beside / "victim.txt"), "/etc/passwd"]

    def bytes(self, data: bytes, words: tuple[bytes, ...] = ()) -> bytes:
        """Some places changed, left out, doubled, cut off, or a word put in."""
        rng, found = self.rng, bytearray(data)
        for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
            at, length = rng.randrange(len(found) + 1), rng.choice((1, 1, 2, 4, 16, 200))
            match rng.randrange(6):
                case 0:
                    found[at : at + length] = rng.randbytes(length)
                case 1:
                    del found[at : at + length]
                case 2:
                    found[at:at] = found[at : at + length] * rng.choice((1, 2, 30))
                case 3 if rng.random() < 0.3:
                    del found[at:]
                case 4 if words:
                    found[at:at] = rng.choice(words)
                case _:
                    found[at : at + 1] = bytes([rng.choice((0, 1, 0x20, 0x22, 0x2D, 0x7F, 0x80, 0xFF))])
        return bytes(found)

    def value(self, value: Any) -> Any:
        """A value of JSON with something in it replaced, removed, added or nested."""
        found = copy.deepcopy(value)
        for _ in range(self.rng.choice((1, 1, 2, 3))):
            found = self._changed(found)
        return found

    def _changed(self, value: Any) -> Any:
        rng = self.rng
        if isinstance(value, dict) and value and rng.random() < 0.85:
            key = rng.choice([*value])
            match rng.randrange(8):
                case 0:
                    del value[key]
                case 1:
                    value[str(rng.choice(self.odd))] = value[key]
                case _:
                    value[key] = self._changed(value[key])
            return value
        if isinstance(value, list) and value and rng.random() < 0.7:
            at = rng.randrange(len(value))
            match rng.randrange(6):
                case 0:
                    del value[at]
                case 1:
                    value[at:at] = [value[at]] * rng.choice((1, 3, 100))
                case _:
                    value[at] = self._changed(value[at])
            return value
        return copy.deepcopy(rng.choice(self.odd))

    def json(self, value: Any) -> str:
        """A line that was to be this value."""
        text = json.dumps(self.value(value))
        if self.rng.random() < 0.3:
            text = re.sub(r"(?<=: )[0-9.]+", lambda match: self.rng.choice((match[0], *NUMBERS)), text)
        if self.rng.random() < 0.1:
            text = self.bytes(text.encode()).decode(errors="replace")
        return text if self.rng.random() > 0.01 else "[" * 100_000 + text


class Watch:
    """What this process opens, renames and removes outside of the folder, but for what programs consist of."""

    def __init__(self, folder: Path) -> None:
        self.found: list[str] = []
        self.active = False
        root = Path(__file__).resolve().parent.parent
        places: set[str | Path] = {
            sys.prefix,
            sys.base_prefix,
            root,
            *filter(None, sys.path),
            "/usr",
            "/lib",
            "/proc",
            "/sys",
            "/dev",
        }
        self._read = tuple(str(Path(place).resolve()) + os.sep for place in places)
        self._write = (str(folder.resolve()) + os.sep, "/dev/null")
        sys.addaudithook(self._hook)

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.active:
            return
        if event == "open" and not isinstance(arguments[0], int):
            writes = (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC)
            self._look(event, arguments[0], bool(writes))
        elif event in ("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate"):
            self._look(event, arguments[0], True)
            if event == "os.rename":
                self._look(event, arguments[1], True)
        elif event == "sqlite3.connect":
            path = os.fsdecode(arguments[0])
            self._look(event, path.removeprefix("file:").partition("?")[0], False)

    def _look(self, event: str, path: Any, writes: bool) -> None:
        try:
            real = os.path.realpath(os.fsdecode(path))
        except (TypeError, ValueError):
            return
        if (
            not real.startswith(self._write if writes else self._write + self._read)
            and real + os.sep not in self._write
        ):
            self.found.append(f"{event} {path!r}{' to write' if writes else ''}")


class Fuzz:
    """Inputs for the readers of nastool, made in a folder."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder / "work"
        self.beside = folder / "beside"
        for each in (self.folder, self.beside):
            each.mkdir(parents=True)
        (self.beside / "victim.txt").write_text("mine")
        shutil.copy(self.beside / "victim.txt", self.beside / "trial-000000.safetensors")
        self.rng = random.Random(seed)
        self.mutator = Mutator(self.rng, self.beside)
        self.found = Found()
        self.given: list[str] = []
        """The words of the command at hand."""
        os.chdir(self.folder)
        self._make()

    def _make(self) -> None:
        """Good inputs to begin with."""
        from nastool.core import archfile
        from nastool.spaces.nasbench201 import NasBench201

        self.table = make_table(self.folder)
        self._call(["search", "-s", "local-search", "--evaluator", "table", "-E", f"file={self.table}", "-n", "6"])
        self._call(
            ["search", "-s", "bo", "-S", "init=3", "--evaluator", "table", "-E", f"file={self.table}", "-n", "7"]
        )
        flags = [
            "--data",
            "digits",
            "--epochs",
            "1",
            "-E",
            "train_size=50",
            "--scale",
            "channels=2,cells=1",
            "--device",
        ]
        self._call(["search", "-s", "random", *flags, "cpu", "-n", "1", "--out", "trained"])
        self.runs = sorted(Path("runs").iterdir())
        for run in [*self.runs, Path("trained")]:
            with closing(sqlite3.connect(run / "run.db")) as db:
                db.execute("PRAGMA journal_mode = DELETE")
                db.execute("VACUUM")
        self.databases = [(run / "run.db").read_bytes() for run in self.runs]
        space = NasBench201()
        self.lines = [json.loads((run / "best.json").read_text()) for run in [*self.runs, Path("trained")]]
        self.lines += [archfile.to_json(space, space.arch([0, 1, 2, 3, 4, 0]))]
        self.recipe = yaml_of("trained/run.yaml")["provenance"]["resolved"]["recipe"]
        self.configs = [yaml_of(run / "run.yaml") for run in [*self.runs, Path("trained")]]
        self.weights = Path("trained/best.safetensors").read_bytes()
        x = np.zeros((12, 4, 4, 1), dtype=np.uint8)
        images: dict[str, Any] = {"x_train": x, "y_train": np.arange(12) % 3, "x_test": x, "y_test": np.arange(12) % 3}
        small: dict[str, Any] = {
            "arch": np.arange(12, dtype=np.uint8).reshape(2, 6) % 5,
            "val200": np.ones(2),
            "test200": np.ones(2),
        }
        self.arrays = []
        for each in (images, small):
            buffer = io.BytesIO()
            np.savez(buffer, allow_pickle=False, **each)
            self.arrays.append(buffer.getvalue())

    def _call(self, words: list[str]) -> int:
        from nastool import cli

        before, sys.argv = sys.argv, ["nastool", *words]
        try:
            return cli.run()
        finally:
            sys.argv = before

    # --- inputs: what is done with one, by kind

    def kinds(self) -> dict[str, tuple[int, Callable[[], bool]]]:
        """Of each kind its share, and what makes one and gives it to its reader: whether it was accepted."""
        return {
            "lines": (320, self.line),
            "options": (330, self.option),
            "configurations": (40, self.config),
            "recipes": (60, self.a_recipe),
            "arrays": (90, self.array),
            "run.db bytes": (35, self.database_bytes),
            "run.db values": (35, self.database_values),
            "metadata": (60, self.metadata),
            "commands": (30, self.command),
        }

    def line(self) -> bool:
        from nastool.core import archfile

        text = self.mutator.json(self.rng.choice(self.lines))
        for document in archfile.read_lines(text.splitlines(), "fuzz"):
            text = archfile.dumps(document.to_json())
            assert archfile.read_text(text).arch == document.arch
            document.space.canonical(document.arch)
        return True

    def option(self) -> bool:
        from nastool.core import options, registry
        from nastool.core.values import Objective

        rng = self.rng
        if rng.random() < 0.05:
            try:
                return bool(Objective.parse(self.mutator.bytes(b"val_acc:max").decode(errors="replace")))
            except ValueError as error:
                raise _refused(error) from None
        kind: registry.Kind = rng.choice(("strategy", "space"))
        name = rng.choice([*registry.plugins(kind)])
        target = registry.load(kind, name)
        known = [*options.of(target)]
        names = [rng.choice(known) if known and rng.random() < 0.95 else "x" for _ in range(rng.choice((1, 1, 2)))]
        shown = [rng.choice((str(rng.choice(self.mutator.odd))[:99], *NUMBERS, "true", "2", "7")) for _ in names]
        if rng.random() < 0.5:
            pairs = [f"{name}={value}" for name, value in zip(names, shown, strict=True)]
            given: dict[str, Any] = dict(options.parse(pairs, "-S"))
        else:
            given = {name: rng.choice(self.mutator.odd) for name in names}
        values = options.resolve(f"{kind} {name}", target, given)
        large = any(isinstance(value, int | float) and abs(value) > 20 for value in values.values())
        if kind == "space" and not large and name != "nasbench101":
            registry.make(kind, name, given=values)
        return True

    def config(self) -> bool:
        from nastool.cli import cli

        with cli.make_context("nastool", ["search", "--dry-run"], resilient_parsing=True):
            pass
        Path("fuzz.yaml").write_bytes(self._yaml(self.rng.choice(self.configs)))
        return self._run(["search", "--config", "fuzz.yaml", "--evaluator", "table", "--dry-run", "--trials", "2"])

    def _yaml(self, document: Any) -> bytes:
        from nastool.core.yaml_files import dump_yaml

        if self.rng.random() < 0.5:
            words = (b"&a ", b"*a", b"!!python/object:x ", b"<<: ", b"? ", b"!!int ", b"\t", b": ", b"---\n")
            return self.mutator.bytes(dump_yaml(document).encode(), words)
        try:
            return dump_yaml(self.mutator.value(document)).encode()
        except (ValueError, TypeError):  # what YAML cannot write
            return json.dumps(self.mutator.value(document)).encode()

    def a_recipe(self) -> bool:
        from nastool.training.recipes import load_recipe

        Path("fuzz.yaml").write_bytes(self._yaml(self.recipe))
        load_recipe("fuzz.yaml")
        return True

    def array(self) -> bool:
        from nastool.core import registry
        from nastool.spaces.nasbench201 import NasBench201
        from nastool.tasks.images import data

        which = self.rng.randrange(2)
        words = (b"'descr': '<f8'", b"'|O'", b"(9999999999,)", b"(-1,)", b"NUMPY\x01\x00", b"PK\x03\x04")
        Path("fuzz.npz").write_bytes(self.mutator.bytes(self.arrays[which], words))
        if which:
            registry.make("evaluator", "table", NasBench201(), given={"file": "fuzz.npz"}).prepare()
        else:
            data.load("npz:fuzz.npz")
        return True

    def _go_on(self, which: int) -> bool:
        """Everything that reads a run's database: as a study, for status, and to go on with it."""
        from nastool.engine.study import Study

        words = [["status"], ["top"], ["top", "--all"], ["search"]][self.rng.choice((0, 0, 0, 1, 2, 3, 3))]
        accepted = True
        try:
            Study.read("fuzz")
        except Exception as error:
            _expected(error)
            accepted = False
        if words[0] == "search":
            config = self.configs[which]["search"]
            extra = [f"{key}={value}" for key, value in config["strategy-options"].items() if value is not None]
            words = ["search", "-s", config["strategy"], *itertools.chain(*(("-S", pair) for pair in extra))]
            words += ["--evaluator", "table", "-E", f"file={self.table}", "-n", "8", "--no-report", "--out"]
        return self._run([*words, "fuzz"]) and accepted

    def _copy(self, which: int) -> Path:
        shutil.rmtree("fuzz", ignore_errors=True)
        Path("fuzz").mkdir()
        shutil.copy(self.runs[which] / "run.yaml", "fuzz")
        return Path("fuzz/run.db")

    def database_bytes(self) -> bool:
        which = self.rng.randrange(2)
        words = (b"\xff\xfe", b"CREATE TABLE", b'{"rng"', b"\x00" * 40)
        self._copy(which).write_bytes(self.mutator.bytes(self.databases[which], words))
        return self._go_on(which)

    def database_values(self) -> bool:
        which = self.rng.randrange(2)
        path = self._copy(which)
        path.write_bytes(self.databases[which])
        with closing(sqlite3.connect(path)) as db, db:
            for _ in range(self.rng.choice((1, 1, 2))):
                self._spoil(db)
        return self._go_on(which)

    def _spoil(self, db: sqlite3.Connection) -> None:
        rng = self.rng
        if rng.random() < 0.5:
            key = rng.choice(
                [key for (key,) in db.execute("SELECT key FROM run")] + ["final", "origin", "silent", "then"]
            )
            rows = db.execute("SELECT value FROM run WHERE key = ?", (key,)).fetchall()
            value: Any = self._spoiled_json(rows[0][0] if rows else '{"trials": 3, "document": {"run": "x"}}')
            column = "INSERT OR REPLACE INTO run VALUES (?, ?)"
            arguments: tuple[Any, ...] = (key, value)
        else:
            names = [row[1] for row in db.execute("PRAGMA table_info(trials)")]
            name = rng.choice(names)
            at = rng.randrange(6)
            ((old,),) = db.execute(f"SELECT {name} FROM trials WHERE id = ?", (at,)).fetchall() or ((None,),)
            odd = rng.choice(self.mutator.odd)
            value = json.dumps(odd) if isinstance(odd, list | dict) else odd
            if isinstance(old, str) and old[:1] in "[{" and rng.random() < 0.7:
                value = self._spoiled_json(old)
            column, arguments = f"UPDATE trials SET {name} = ? WHERE id = ?", (value, at)
        if isinstance(arguments[0], str) and rng.random() < 0.1:
            arguments = (arguments[0].encode(errors="replace"), *arguments[1:])
        try:
            db.execute(column, arguments)
        except (sqlite3.Error, OverflowError, UnicodeEncodeError):  # the database itself does not take it
            db.execute("DELETE FROM trials WHERE id = ?", (rng.randrange(6),))

    def _spoiled_json(self, text: str) -> str:
        try:
            return self.mutator.json(json.loads(text))
        except (ValueError, RecursionError):  # it is spoiled already
            return text

    def metadata(self) -> bool:
        from nastool.deploy import models

        length = int.from_bytes(self.weights[:8], "little")
        header = json.loads(self.weights[8 : 8 + length])
        if self.rng.random() < 0.8:
            said = header["__metadata__"]
            key = self.rng.choice([*said])
            try:
                said[key] = self.mutator.json(json.loads(said[key]))
            except ValueError:
                said[key] = self.mutator.json(said[key])
            new = json.dumps(header).encode()
        else:
            new = self.mutator.bytes(self.weights[8 : 8 + length])
        Path("fuzz.safetensors").write_bytes(len(new).to_bytes(8, "little") + new + self.weights[8 + length :])
        models.load("fuzz.safetensors")
        return True

    def command(self) -> bool:
        self.given, text = self.words()
        return self._run(self.given, text)

    def words(self) -> tuple[list[str], str]:
        """A command line about spoiled files, and what it reads from stdin."""
        rng = self.rng
        text = "".join(self.mutator.json(rng.choice(self.lines)) + "\n" for _ in range(rng.choice((1, 1, 2))))
        Path("fuzz.json").write_text(text, errors="replace")
        Path("fuzz.yaml").write_bytes(self._yaml(rng.choice((self.recipe, *self.configs))))
        which = rng.randrange(2)
        path = self._copy(which)
        path.write_bytes(self.databases[which])
        with closing(sqlite3.connect(path)) as db, db:
            self._spoil(db)
        for name in ("best.json", "trials.csv"):
            shutil.copy(self.runs[which] / name, "fuzz")
        Path("fuzz/best.json").write_text(text, errors="replace")
        words = list(
            rng.choice(
                (
                    ["show", "fuzz.json"],
                    ["show", "--text", "-"],
                    ["show", "fuzz", "--text"],
                    ["show", "recipe:fuzz.yaml"],
                    ["status", "fuzz", "--text"],
                    ["top", "fuzz", "-k", "3", "--text"],
                    ["eval", "-", "--evaluator", "table", "-E", f"file={self.table}"],
                    ["sample", "-n", "2", "--space", "nasbench201", "--seed", "1"],
                    ["list", "strategies", "evolution"],
                    ["search", "--config", "fuzz.yaml", "--dry-run"],
                    ["compare", "fuzz", str(self.runs[which])],
                    ["export", "fuzz.json", "-o", "out.py"],
                )
            )
        )
        if rng.random() < 0.3:
            at = rng.randrange(len(words))
            odd = str(rng.choice(self.mutator.odd)).replace("\0", "0")[:200].encode(errors="replace").decode()
            words[at : at + rng.randrange(2)] = [rng.choice((odd, "-k", "--json", "--seed", "--scale", "--debug", "-"))]
        return words, text

    def _run(self, words: list[str], text: str = "") -> bool:
        """A command in this process."""
        out, err = io.StringIO(), io.StringIO()
        before = sys.stdin
        sys.stdin = io.TextIOWrapper(io.BytesIO(text.encode(errors="replace")), encoding="utf-8")
        try:
            with redirect_stdout(out), redirect_stderr(err):
                code = self._call(words)
        finally:
            sys.stdin = before
        self._check(words, code, err.getvalue(), "--debug" in words)
        return code == 0

    def _check(self, words: list[str], code: int, err: str, debug: bool) -> None:
        if code not in (0, 1, 2) or "internal error" in err or ("Traceback" in err and not debug) or (code and not err):
            raise AssertionError(f"{words}: exit code {code}: {err[-600:]}")

    # --- the fuzz

    def inputs(self, count: int) -> None:
        """So many in this process."""
        watch = Watch(self.folder)
        kinds = self.kinds()
        whole = sum(share for share, _ in kinds.values())
        before = _peak()
        for name, (share, make) in kinds.items():
            for _ in range(-(-count * share // whole)):
                state, start = self.rng.getstate(), time.process_time()
                watch.active = True
                try:
                    self.found.accepted[name] += make()
                except BaseException as error:
                    watch.active = False
                    try:
                        _expected(error)
                    except BaseException as problem:
                        self._keep(name, "".join(traceback.format_exception(problem)[-6:]), state)
                watch.active = False
                took, peak = time.process_time() - start, _peak()
                self.found.inputs[name] += 1
                self.found.seconds = max(self.found.seconds, took)
                if took > SECONDS:
                    self._keep(name, f"{took:.1f} s", state)
                if peak > before + BYTES:
                    self._keep(name, f"{(peak - before) >> 20:,} MiB more", state)
                    before = peak
                for each in watch.found:
                    if each.endswith("to write") or not self._named(name, each):
                        self._keep(name, each, state)
                watch.found.clear()
            gc.collect()
        self.found.bytes = _peak()
        self._check_beside()

    def _named(self, kind: str, event: str) -> bool:
        """Whether the user's own words, or the user's own file of options, named what was read."""
        if kind == "commands":
            return any("fuzz.yaml" in word or event == f"open {word!r}" for word in self.given)
        return kind == "configurations"

    def commands(self, count: int) -> None:
        """So many as processes."""
        for _ in range(count):
            words, text = self.words()
            process = subprocess.Popen(
                [*NASTOOL, *words],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
            )
            _, err = process.communicate(text.encode(errors="replace").decode(), timeout=120)
            self.found.inputs["whole commands"] += 1
            self.found.accepted["whole commands"] += process.returncode == 0
            try:
                self._check(words, process.returncode, err, "--debug" in words)
            except AssertionError as error:
                self.found.problem("whole commands", str(error))
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        if used.ru_maxrss * 1024 > BYTES:
            self.found.problem("whole commands", f"{used.ru_maxrss >> 10:,} MiB")
        self._check_beside()

    def _keep(self, kind: str, what: str, state: Any) -> None:
        """A problem, with what makes it again."""
        place = self.folder.parent / f"problem-{len(self.found.problems)}"
        place.write_text(repr(state))
        self.found.problem(kind, f"{what.strip()}  [{place}]")

    def _check_beside(self) -> None:
        names = sorted(path.name for path in self.beside.iterdir())
        whole = all((self.beside / name).read_text() == "mine" for name in names)
        if names != ["trial-000000.safetensors", "victim.txt"] or not whole:
            self.found.problem("files", f"the folder beside was changed: {names}")


def yaml_of(path: str | Path) -> dict[str, Any]:
    from nastool.core.yaml_files import read_yaml

    return read_yaml(path)


def _expected(error: BaseException) -> None:
    """Raise what is no refusal."""
    from nastool.core.errors import NastoolError

    if not isinstance(error, NastoolError):
        raise error


def _refused(error: Exception) -> Exception:
    from nastool.core.errors import InputError

    return InputError(str(error))


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def fuzz(inputs: int, commands: int, seed: int, folder: Path) -> Found:
    """Both kinds, in a folder."""
    here = Path.cwd()
    os.environ |= {"OMP_NUM_THREADS": "1", "NASTOOL_SEARCH_REPORT": "0", "TMPDIR": str(folder / "work")}
    tempfile.tempdir = None
    try:
        made = Fuzz(folder, seed)
        made.inputs(inputs)
        made.commands(commands)
    finally:
        os.chdir(here)
        del os.environ["TMPDIR"]
        tempfile.tempdir = None
    return made.found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="what", required=True)
    for name, defaults in (("kills", {"kills": 200}), ("fuzz", {"inputs": 100_000, "commands": 500})):
        command = commands.add_parser(name)
        for option, default in {**defaults, "seed": 0}.items():
            command.add_argument(f"--{option}", type=int, default=default)
        if name == "kills":
            command.add_argument("--only", default="")
    given = parser.parse_args()
    faulthandler.enable()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="storm-") as name:
        if given.what == "kills":
            tallies = kills(given.kills, given.seed, Path(name), given.only)
            total = sum(tally.kills.total() for tally in tallies.values())
            sound = all(tally.sound for tally in tallies.values())
            print(f"{total} kills in {len(tallies)} searches: {'all sound' if sound else 'NOT SOUND'}")
        else:
            found = fuzz(given.inputs, given.commands, given.seed, Path(name))
            sound = not found.problems
            print(found)
    print(
        f"seed {given.seed}, {time.monotonic() - began:,.0f} s, Python {sys.version.split()[0]}, {os.cpu_count()} cores"
    )
    return 0 if sound else 1


if __name__ == "__main__":
    sys.exit(main())
