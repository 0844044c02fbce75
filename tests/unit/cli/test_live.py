"""The live view of a search: what it shows, that it fits, and that it leaves a terminal as it was."""

from __future__ import annotations

import fcntl
import io
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len, get_character_cell_size
from rich.console import Console, ConsoleOptions, RenderResult

from nastool.cli import listener
from nastool.cli.live import frame, machine, screen, stored, text
from nastool.cli.live.stored import Followed
from nastool.cli.live.view import Best, Rounds, Row, Running, View
from nastool.cli.progress import Progress
from nastool.core.strategy import Strategy
from nastool.core.values import Evaluation, Objective, Proposal, Trial
from nastool.engine.config import RunConfig
from nastool.engine.events import RunBegun
from nastool.engine.executors.inline import Inline
from nastool.engine.executors.jobs import Finished, Job, JobEvent, Reported
from nastool.engine.interrupts import undisturbed
from nastool.engine.search import Search
from nastool.engine.store import Store
from nastool.nets.devices import Gpu
from nastool.spaces.nasbench201 import NasBench201
from tests.helpers.made_runs import folder
from tests.helpers.plugins import install
from tests.helpers.running import counts

HOSTILE = [
    "[/red]",
    "[bold]x",
    "a\x1b[2J\x1b[Hb",
    "line\nline\r\n",
    "\t",
    "漢字" * 30,
    "👩‍👩‍👧" * 9,
    "é" * 99,
    "\u202eabc",
    "\x9b5A",
]

names = st.one_of(st.text(max_size=120), st.sampled_from(HOSTILE))
numbers = st.floats(allow_nan=False, allow_infinity=False)
rows = st.builds(
    Row,
    id=st.integers(0, 10**9),
    value=st.none() | numbers,
    seconds=st.none() | st.floats(0, 1e9),
    params=st.none() | st.integers(0, 10**12).map(float),
    parent=st.none() | st.integers(0, 10**9),
)
views = st.builds(
    View,
    metric=names,
    done=st.integers(0, 10**7),
    total=st.none() | st.integers(1, 10**7),
    title=names,
    noun=st.sampled_from(["trials", "trainings"]),
    per_hour=st.none() | st.floats(0, 1e12),
    left=st.none() | st.floats(0, 1e12),
    until=st.none() | st.floats(0, 1e12),
    best=st.none() | st.builds(Best, rows, names, st.lists(names, max_size=9).map(lambda drawn: lambda width: drawn)),
    last=st.lists(rows, max_size=40),
    running=st.lists(
        st.builds(Running, st.integers(0, 10**9), st.floats(0, 1e9), st.none() | st.integers(0, 10**9), names,
                  st.lists(st.floats(), max_size=40)),
        max_size=20,
    ),
    failed=st.integers(0, 10**6),
    failure=st.none() | st.tuples(st.integers(0, 10**9), names),
    rounds=st.none() | st.builds(Rounds, st.integers(0, 99), st.integers(0, 99),
                                 st.dictionaries(names, st.lists(st.floats(), max_size=40), max_size=3)),
    stopping=st.booleans(),
    machine=st.lists(names, max_size=4),
)  # fmt: skip


def drawn(views: Sequence[View], width: int, height: int = 99) -> list[str]:
    """What rich makes of the views where there is so much room."""
    console = Console(file=io.StringIO(), width=width, height=99, force_terminal=True, color_system=None)
    options = console.options.update(width=width, height=height).reset_height()
    lines = console.render_lines(frame.Frame(views), options, pad=False)
    return ["".join(segment.text for segment in line) for line in lines]


def example(**more: Any) -> View:
    last = [Row(i, 0.9 + i / 1000, 1.0 + i, 73306.0, None if i < 3 else i - 1) for i in range(20)]
    drawn = ["1=conv(0)", "2=skip(0)+conv(1)"]
    known: dict[str, Any] = {
        "metric": "val_acc",
        "done": 20,
        "total": 40,
        "per_hour": 184.4,
        "left": 540.0,
        "best": Best(last[7], "0123456789ab", lambda width: drawn),
        "last": last,
        "running": [
            Running(20, 12.0, 3, "val_acc", (0.1, 0.5, 0.9)),
            Running(21, 2.0),
            Running(22, 5.0, 8, epochs=10),
        ],
        "failed": 2,
        "failure": (9, "out of memory"),
        "rounds": Rounds(3, 10, {"shared_acc": (0.1, 0.3), "entropy": (12.0, 11.0)}),
        "machine": ("812 MiB in 2 workers", "load 1.9 on 2 cores"),
    }
    return View(**{**known, **more})


# --- what it shows


def test_a_view_shows_everything_that_it_knows() -> None:
    shown = "\n".join(drawn([example()], 100, 40))
    for fact in (
        "20/40", "9 min left", "184 trials/h", "val_acc 0.9070", "trial 7", "73,306 params", "0123456789ab",
        "2=skip(0)+conv(1)", "trial 20  step 3  val_acc 0.9  ▁▅█  12 s", "trial 21", "trial 22  epoch 8/10",
        "2, the last trial 9: out of memory",
        "3/10", "shared_acc 0.3 ▁█", "entropy 11 █▁", "812 MiB in 2 workers", "trial  val_acc   cost  params  parent",
    ):  # fmt: skip
        assert fact in shown
    assert re.search(r"^ +19 +0\.9190 +20 s +73,306 +18$", shown, flags=re.MULTILINE)


def test_a_training_counts_epochs(tmp_path: Path) -> None:
    """Of the recipe, or of the proposal's budget; what is no training counts steps."""
    training, other = folder(tmp_path / "a", [0.5]), folder(tmp_path / "b", [0.5], resolved={})
    for path in (training, other):
        with Store.open(path / "run.db") as store:
            for i, budget in ((1, None), (2, 8.0)):
                store.begin()
                store.add(Trial(i, Proposal(NasBench201().arch([0] * 6), budget=budget)))
                store.commit()
                store.report(i, 1, {"val_acc": 0.25})
    assert [running.progress for running in Followed(training).view().running] == ["epoch 1/2", "epoch 1/8"]
    assert text.at_work(Followed(training).view()) == "  running #1 epoch 1/2, #2 epoch 1/8"
    assert [running.progress for running in Followed(other).view().running] == ["step 1", "step 1"]


def test_the_first_lines_break_no_words(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("COLUMNS", "40")
    options = {"population": 20, "mutation_rate": 0.0, "dedup": True, "inherit": False}
    config = RunConfig.resolve(("evolution", options), ("nasbench201", {}), ("train", {}), 0, None)
    listener._say_begun(RunBegun(config, Path("runs/a"), {"device": "cpu, 1 threads", "train_images": 1079}))
    lines = terminal.getvalue().splitlines()
    assert all(len(line) <= 40 for line in lines), lines
    words = "searching in runs/a strategy evolution population=20 mutation_rate=0.0 dedup=true inherit=false space"
    assert " ".join(lines).split()[:10] == words.split()
    assert lines[-3:] == ["  evaluator  train", "             device cpu, 1 threads", "             train_images 1079"]


@pytest.mark.parametrize("width, height", [(80, 24), (200, 50), (40, 10), (40, 12), (20, 5), (10, 3), (3, 2), (1, 1)])
def test_lines_fit_at_any_size(width: int, height: int) -> None:
    for view in (example(), example(title="runs/a: running", stopping=True), View("val_acc", 0, None)):
        lines = drawn([view], width, height)
        assert 1 <= len(lines) <= height
        assert all(text.cells(line) <= width for line in lines)
    assert "20/40" in "".join(drawn([example()], 40, 1))


def test_what_tells_most_stays_where_there_is_little_room() -> None:
    shown = drawn([example()], 40, 6)
    assert [line.split()[0] for line in shown] == ["trials", "best", "running", "rounds", "failed", "uses"]
    assert "━" in shown[0]


def test_the_drawing_stands_beside_the_table_where_there_is_room() -> None:
    wide, narrow = (drawn([example()], width, 40) for width in (150, 90))
    (line,) = (line for line in wide if "2=skip" in line)
    assert re.match(r" +\d+ +0\.9", line)
    (line,) = (line for line in narrow if "2=skip" in line)
    assert line.strip() == "2=skip(0)+conv(1)"


def test_more_running_trials_than_lines_are_counted() -> None:
    shown = "\n".join(drawn([example(running=[Running(i, 1.0) for i in range(64)])], 80, 20))
    some = len(re.findall(r"trial \d+  1\.0 s", shown))
    assert 1 <= some < 8 and f"and {64 - some} more" in shown


def test_several_views_share_the_room() -> None:
    lines = drawn([example(title=f"runs/{name}") for name in "abc"], 80, 21)
    assert len(lines) <= 21 and [line for line in lines if line.startswith("runs/")] == ["runs/a", "runs/b", "runs/c"]


@settings(max_examples=80, deadline=None)
@given(views, st.integers(1, 220), st.integers(1, 60))
def test_nothing_breaks_the_view(view: View, width: int, height: int) -> None:
    shown = drawn([view], width, height)
    assert len(shown) <= height
    for line in shown:
        assert sum(map(get_character_cell_size, line)) <= width
        assert all(c.isprintable() and get_character_cell_size(c) for c in line)
        assert text.plainly(line).isascii() and len(text.plainly(line)) == len(line)
    assert "\n" not in text.line(view) and "\x1b" not in text.line(view)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(), max_size=30), st.integers(-1, 20))
def test_sparklines_are_as_long_as_their_values(values: list[float], width: int) -> None:
    line = text.sparkline(values, width)
    finite = [value for value in values if np.isfinite(value)]
    assert len(line) == min(len(finite), max(0, width)) and set(line) <= set(text.CURVE)


def test_sparkline_rises_with_its_values() -> None:
    assert text.sparkline([0, 1, 2, 3, 4, 5, 6, 7], 9) == "▁▂▃▄▅▆▇█"
    assert text.sparkline([1, 1, 1], 9) == "▄▄▄"
    assert text.plainly(text.sparkline([-1e308, 1e308], 9)) == "_^"


# --- from events


class Given(Strategy):
    """Proposes an architecture of the space again and again; the third trial names a parent."""

    name = "given"

    def __init__(self, space: NasBench201, policy: Mapping[str, object] | None = None) -> None:
        super().__init__(space)
        self.policy = policy

    def propose(self) -> Proposal:
        return Proposal(self.space.arch([0] * 6), 0 if self.asked == 2 else None, policy=self.policy)

    def tell(self, trial: Trial) -> None:
        pass


class Scripted(Inline):
    """Trial i reports twice and gives i / 10; trial 1 fails, for no fault of its architecture."""

    def __init__(self) -> None:
        self._events = []

    def wait(self, seconds: float) -> list[JobEvent]:
        return [self._events.pop(0)]

    def submit(self, job: Job) -> None:
        i = job.trial_id
        self._events += [Reported(job, step, {"loss": 1.0, "val_acc": i / 10 + step}) for step in (1, 2)]
        if i == 1:
            self._events.append(Finished(job, error="[/red] it \x1b[31mbroke", fault="killed"))
            return
        policy = None if job.proposal.policy is None else {"best": [0], "rounds_left": 5 - i}
        metrics = {"val_acc": i / 10, "shared_acc": i / 10, "entropy": 9.0 - i, "params": 1000.0 + i}
        self._events.append(Finished(job, Evaluation(metrics, 2.0, None, policy)))


def searched(
    folder: Path, watch: Callable[[Search, Reported | Trial | None], None], trials: int, **more: Any
) -> Search:
    space = NasBench201()
    about = {"config": {"space": {"name": "nasbench201", "options": {}}}, "objective": "val_acc:max", "trials": trials}
    there = (folder / "run.db").is_file()
    store = (
        Store.open(folder / "run.db", durable=False) if there else Store.create(folder / "run.db", about, durable=False)
    )
    with store:
        objective = Objective("val_acc", "max")
        search = Search(store, Given(space, **more), Scripted(), [objective], 0, trials, folder, watch=watch)
        search.restore()
        search.run()
        return search


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def views_of(folder: Path, trials: int, **more: Any) -> list[View]:
    """What there was to see after each event of a search."""
    seen: list[View] = []
    searched(folder, lambda search, event: seen.append(Followed(folder).view("running")), trials, **more)
    return seen


def test_the_store_makes_the_view(tmp_path: Path) -> None:
    seen = views_of(tmp_path, 6)
    second = next(view for view in seen if view.running and view.running[0].step == 2)
    assert replace(second.running[0], seconds=0.0) == Running(0, 0.0, 2, "val_acc", (1.0, 2.0))
    assert second.done == 0 and second.left is None and 0 <= second.running[0].seconds < 60
    last = seen[-1]
    assert (last.done, last.total, last.failed) == (6, 6, 1)
    assert last.failure == (1, "[/red] it \x1b[31mbroke")
    assert last.best is not None and last.best.row == Row(5, 0.5, 2.0, 1005.0, None)
    assert last.best.draw(60)
    assert [row.id for row in last.last] == [0, 1, 2, 3, 4, 5]
    assert last.last[1].value is None and last.last[2].parent == 0
    assert last.per_hour is not None and last.left is None and last.rounds is None
    assert seen[11].left is not None and seen[11].title == f"{tmp_path}: running"
    after = Followed(tmp_path).view()
    assert after.title == f"{tmp_path}: interrupted" and after.per_hour is None


def test_what_earlier_runs_found_is_there(tmp_path: Path) -> None:
    views_of(tmp_path, 4)
    seen = views_of(tmp_path, 6)
    assert [row.id for row in seen[0].last][:4] == [0, 1, 2, 3] and seen[0].failure is not None
    assert [row.id for row in seen[-1].last] == [0, 1, 2, 3, 4, 5]  # none twice


def test_rounds_have_curves_and_a_pace_of_their_own(tmp_path: Path) -> None:
    rounds = views_of(tmp_path, 5, policy={"strategy": "given"})[-1].rounds
    assert rounds is not None and (rounds.done, rounds.total) == (4, 5)  # one of the five failed
    assert rounds.curves == {"shared_acc": (0.0, 0.2, 0.3, 0.4), "entropy": (9.0, 7.0, 6.0, 5.0)}
    assert stored.remaining(5, 100, rounds) == 1 and stored.remaining(5, 100, None) == 95
    assert stored.remaining(5, None, None) is None and stored.remaining(5, 100, Rounds(5, 5, {})) == 95
    assert stored.rounds_of([]) is None


def test_a_repeated_trial_begins_its_curve_anew(tmp_path: Path) -> None:
    searched(tmp_path, lambda search, event: None, 1)
    with Store.open(tmp_path / "run.db", durable=False) as store:
        for step, value in ((1, 0.1), (2, 0.2), (1, 0.3)):
            store.report(7, step, {"val_acc": value})
        assert store.reports(7) == [(1, {"val_acc": 0.3})]
    found = stored.running(7, 1.0, [(1, {"loss": 2.0}), (2, {"loss": 1.0, "val_acc": 0.5})], "val_acc")
    assert (found.step, found.metric, found.curve) == (2, "val_acc", (0.5,))
    found = stored.running(7, 1.0, [(1, {"loss": 2.0}), (2, {"loss": 1.0})], "val_acc")
    assert (found.step, found.metric, found.curve) == (2, "loss", (2.0, 1.0))
    assert stored.running(7, 1.0, [(2, {})], "val_acc") == Running(7, 1.0, 2)


def test_progress_writes_plain_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    clock = Clock()
    monkeypatch.setattr("nastool.cli.progress.time.monotonic", clock)
    with Progress() as progress:

        def watch(search: Search, event: Reported | Trial | None) -> None:
            clock.now += 1.0
            progress.watch(search, event)

        searched(tmp_path, watch, 8)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "trial 1 failed: [/red] it ?[31mbroke"
    assert re.fullmatch(r"trials 2/8  best val_acc 0\.0000 \(#0\)  1 failed  [\d,]+ trials/h  [\d.]+ s left", lines[1])
    assert len(lines) == 1 + 24 // 6


# --- devices


def test_what_gpus_say() -> None:
    """In CUDA's order, which need not be theirs."""
    answer = "GPU-a, 1024, 143771, 97\nGPU-b, 0, 143771, 0\nNo devices\nGPU-c, [N/A], 1, 1\n"
    gpus = [Gpu(i, str(i), "H200", uuid, (9, 0), 1) for i, uuid in enumerate(("GPU-b", "GPU-c", "GPU-a", "GPU-d"))]
    assert machine.gpu_facts(answer, gpus) == ("gpu 0: 0.0 of 140 GiB 0%", "gpu 2: 1.0 of 140 GiB 97%")
    assert machine.gpu_facts(answer, gpus[2:]) == ("gpu 2: 1.0 of 140 GiB 97%",)
    assert machine.gpu_facts(answer, []) == ()


def test_memory_that_workers_share_counts_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes in pages; a worker that was begun anew may be smaller than the process that forks the others."""
    pages = 2**20 // os.sysconf("SC_PAGE_SIZE")
    processes = {"11": ("nastool-forks", 300), "12": ("nastool-worker-", 310), "13": ("nastool-worker-", 350)}
    processes |= {"14": ("nastool-worker-", 200), "15": ("nvidia-smi", 900), "self": ("nastool", 80)}
    for pid, (name, mebibytes) in processes.items():
        (tmp_path / pid).mkdir()
        (tmp_path / pid / "comm").write_text(f"{name}\n")
        (tmp_path / pid / "statm").write_text(f"99999 {mebibytes * pages} 100 1 0 1 0\n")
    children = tmp_path / f"self/task/{os.getpid()}/children"
    children.parent.mkdir(parents=True)
    children.write_text("11 12 13 14 15 ")
    monkeypatch.setattr(machine, "PROC", tmp_path)
    assert machine._memory() == "360 MiB in 3 workers"
    children.write_text("15 ")
    assert machine._memory() == "80 MiB"


def test_the_machine_is_not_asked_all_the_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(machine, "PROC", tmp_path)  # as where there is no /proc
    facts = machine.Machine(gpus=False)
    first = facts.facts(100.0)
    assert all(fact.startswith("load ") for fact in first)
    monkeypatch.setattr(machine, "_load", lambda: "load 99")
    assert facts.facts(101.0) == first and facts.facts(102.0) == ("load 99",)
    facts.close()


# --- signals


def test_signals_wait_until_the_drawing_is_done() -> None:
    order: list[str] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: order.append("handled"))
    try:
        with undisturbed():
            signal.raise_signal(signal.SIGINT)
            order.append("drawn")
        assert order == ["drawn", "handled"]
        with pytest.raises(KeyError), undisturbed():
            raise KeyError
        signal.raise_signal(signal.SIGINT)
        assert order == ["drawn", "handled", "handled"]
    finally:
        signal.signal(signal.SIGINT, before)


# --- a real terminal


class Terminal:
    """A pseudo-terminal of a size, and a simple screen that what is written there is drawn on."""

    def __init__(self, width: int = 80, height: int = 24) -> None:
        self.master, self.slave = pty.openpty()
        self.resize(width, height)
        self.raw = b""
        self._changed = threading.Condition()
        self._closed = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def resize(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))

    def _read(self) -> None:
        while not self._closed.is_set():
            if not select.select([self.master], [], [], 0.02)[0]:
                continue
            try:
                data = os.read(self.master, 65536)
            except OSError:
                return
            with self._changed:
                self.raw += data
                self._changed.notify_all()

    def wait_for(self, shown: str, seconds: float = 60) -> None:
        """Until it was written. Fails after so many seconds, which are for broken programs only."""
        with self._changed:
            assert self._changed.wait_for(lambda: shown in self.raw.decode(errors="replace"), seconds), self.raw

    def text(self) -> str:
        return self.raw.decode(errors="replace")

    def screen(self) -> list[str]:
        """All lines ever written, as they stand there in the end. No line may be longer than the terminal is wide."""
        lines, row, column = [""], 0, 0
        for part in re.findall(r"\x1b\[[?\d;]*[a-zA-Z]|\r|\n|[^\x1b\r\n]+", self.text()):
            if part == "\r":
                column = 0
            elif part == "\n":
                row += 1
                lines += [""] * (row + 1 - len(lines))
            elif part.startswith("\x1b"):
                number = int(part[2:-1]) if part[2:-1].isdigit() else 1
                if part[-1] == "A":
                    row -= number
                    assert row >= 0, "above the first line"
                elif part[-1] == "K":
                    lines[row] = ""
                else:
                    assert part[-1] in "mhl", part
            else:
                lines[row] = lines[row].ljust(column)[:column] + part + lines[row][column + len(part) :]
                column += len(part)
        return [line.rstrip() for line in lines]

    def close(self) -> None:
        self._closed.set()
        self._reader.join()  # or it would read from the next terminal, which gets the same number
        os.close(self.slave)
        os.close(self.master)


@contextmanager
def terminal(width: int = 80, height: int = 24) -> Iterator[Terminal]:
    opened = Terminal(width, height)
    try:
        yield opened
    finally:
        opened.close()


GATED = """
import pathlib, time
from nastool.core.values import Evaluation
from nastool.core.evaluator import Evaluator

class Gated(Evaluator):
    \"\"\"Reports twice, and goes on once there is a file `go` or `go-TRIAL`.\"\"\"
    name = "gated"

    def prepare(self):
        pass

    def evaluate(self, trial_id, proposal, *, seed, report):
        report(1, {"val_acc": 0.25})
        report(2, {"val_acc": 0.5})
        while not any(pathlib.Path(name).exists() for name in ("go", f"go-{trial_id}")):
            time.sleep(0.02)
        if trial_id == 1:
            raise RuntimeError("[/red] \\x1b[2J broken")
        return Evaluation({"val_acc": 0.5 + trial_id / 100, "params": 12345}, 1.5)
"""
END = "<the end>"
LEADER = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execvp(sys.argv[1], sys.argv[1:])"
"""Makes stdin the process's controlling terminal, so that Ctrl-C typed there reaches it."""


class Program:
    """`nastool search` with evaluator GATED in a folder, on a terminal; stdout goes to a file."""

    def __init__(self, folder: Path, terminal: Terminal, changes: Mapping[str, str]) -> None:
        self.folder = folder
        self.terminal = terminal
        points = {"nastool.evaluators": "gated = gated_plugin:Gated"}
        environment = install(folder / "plugin", "gated_plugin", GATED, points)
        for name in ("CI", "COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
            environment.pop(name, None)
        environment |= {"TERM": "xterm-256color", "OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8", **changes}
        search = ["-m", "nastool", "search", "--evaluator", "gated", "-s", "random", "-n", "3", "--out", "run"]
        self.out = folder / "out"
        with self.out.open("w") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-c", LEADER, sys.executable, *search],
                cwd=folder, env=environment, start_new_session=True,
                stdin=terminal.slave, stdout=out, stderr=terminal.slave,
            )  # fmt: skip

    def let(self, name: str = "go") -> None:
        (self.folder / name).touch()

    def end(self) -> int:
        """Its exit code, once all that it wrote has arrived."""
        code = self.process.wait(60)
        os.write(self.terminal.slave, END.encode())
        self.terminal.wait_for(END)
        return code


@contextmanager
def program(
    folder: Path, size: tuple[int, int] = (80, 24), changes: Mapping[str, str] | None = None
) -> Iterator[tuple[Program, Terminal]]:
    with terminal(*size) as tty:
        running = Program(folder, tty, changes or {})
        try:
            yield running, tty
        finally:
            running.process.kill()
            running.process.wait()


def echoes(tty: Terminal) -> bool:
    return bool(termios.tcgetattr(tty.slave)[3] & termios.ECHO)


def is_clean(tty: Terminal) -> None:
    """Nothing of the view is left, the cursor shows, and so do keys."""
    assert tty.text().count("\x1b[?25l") == tty.text().count("\x1b[?25h") == 1
    assert tty.text().rindex("\x1b[?25h") > tty.text().rindex("\x1b[2K\x1b[1A")
    assert not [line for line in tty.screen() if re.match("trials  |best  |running  |last  |uses  |failed  ", line)]
    assert echoes(tty)


def test_a_search_on_a_terminal(tmp_path: Path) -> None:
    with program(tmp_path) as (search, tty):
        tty.wait_for("step 2")
        tty.wait_for("▁█")
        assert not echoes(tty)
        os.write(tty.master, b"keys\n")  # do not show
        search.let("go-0")
        tty.wait_for("0.5000")
        search.let("go-1")
        tty.wait_for("the last trial 1: RuntimeError: [/red]")
        search.let()
        assert search.end() == 0
        is_clean(tty)
        assert "keys" not in tty.text() and "\x1b[2J" not in tty.text()
        shown = "\n".join(tty.screen())
        assert re.match(
            r"searching in run\n(  (strategy|space|evaluator) .*\n){3}\n*3 trials, 1 failed, in .*\nbest: trial 2, ",
            shown,
        )
        assert re.search(r"\x1b\[(1;)?3\dm", tty.text())
        assert json.loads(search.out.read_text())["trial"] == 2


def test_ctrl_c_once_finishes_the_running_trials(tmp_path: Path) -> None:
    with program(tmp_path) as (search, tty):
        tty.wait_for("step 2")
        os.write(tty.master, b"\x03")
        tty.wait_for("finishing the running trial; Ctrl-C again stops at once")
        tty.wait_for("stopping: finishing 1 running")
        search.let()
        assert search.end() == 130
        is_clean(tty)
        assert "^C" not in tty.text()
        assert [line for line in tty.screen() if line.startswith("saved in run; continue with: nastool resume run")]
    with Store.read(tmp_path / "run" / "run.db") as store:
        assert store.count() == counts(done=1)


def test_ctrl_c_twice_stops_at_once(tmp_path: Path) -> None:
    with program(tmp_path) as (search, tty):
        tty.wait_for("step 2")
        os.write(tty.master, b"\x03")
        tty.wait_for("finishing the running trial")
        os.write(tty.master, b"\x03")
        assert search.end() == 130
        is_clean(tty)
        assert "stopped with 0 trials saved in run" in tty.text() and "Traceback" not in tty.text()


def test_sigterm_leaves_the_terminal_in_order(tmp_path: Path) -> None:
    with program(tmp_path) as (search, tty):
        tty.wait_for("step 2")
        search.process.terminate()
        assert search.end() == 143
        is_clean(tty)


def test_the_terminal_may_change_its_size(tmp_path: Path) -> None:
    with program(tmp_path, (120, 30)) as (search, tty):
        tty.wait_for("step 2")
        before = len(tty.text())
        tty.resize(44, 12)
        search.let("go-0")
        with tty._changed:
            assert tty._changed.wait_for(lambda: "1/3" in tty.text()[before:], 120)
        # The line of a bar that filled 120 columns has become three: two more are wiped than were drawn.
        assert re.search(r"\r\x1b\[2K\x1b\[1A\r", tty.text()[before:])
        frame_text = re.sub(r"\x1b\[[?\d;]*[a-zA-Z]", "", tty.text()[before:])
        frames = frame_text[frame_text.index("1/3") :]
        assert all(cell_len(line) < 44 for line in re.split("[\r\n]", frames))
        search.let()
        assert search.end() == 0
        assert tty.text().count("\x1b[?25h") == 1 and echoes(tty)


def test_no_color(tmp_path: Path) -> None:
    with program(tmp_path, changes={"NO_COLOR": "1"}) as (search, tty):
        tty.wait_for("step 2")
        search.let()
        assert search.end() == 0
        is_clean(tty)
        assert not re.search(r"\x1b\[([\d;]*;)?[349]\d[;m]", tty.text())


def test_ascii_terminals(tmp_path: Path) -> None:
    with program(tmp_path, changes={"PYTHONIOENCODING": "ascii"}) as (search, tty):
        tty.wait_for("step 2")
        search.let()
        assert search.end() == 0
        assert tty.raw.isascii() and b"\\u" not in tty.raw


@pytest.mark.parametrize("changes", [{"TERM": "dumb"}, {"CI": "true"}])
def test_lines_where_nobody_sees_a_screen(tmp_path: Path, changes: dict[str, str]) -> None:
    with program(tmp_path, changes=changes) as (search, tty):
        search.let()
        assert search.end() == 0
        assert "\x1b" not in tty.text() and "trial 1 failed: RuntimeError: [/red]" in tty.text()


def test_lines_in_a_pipe(tmp_path: Path) -> None:
    environment = install(
        tmp_path / "plugin", "gated_plugin", GATED, {"nastool.evaluators": "gated = gated_plugin:Gated"}
    )
    environment |= {"TERM": "xterm-256color", "FORCE_COLOR": "1"}
    (tmp_path / "go").touch()
    command = [
        sys.executable,
        "-m",
        "nastool",
        "search",
        "--evaluator",
        "gated",
        "-s",
        "random",
        "-n",
        "3",
        "--out",
        "a",
    ]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0
    assert "\x1b" not in result.stderr + result.stdout
    assert "trial 1 failed: RuntimeError: [/red]" in result.stderr


class Measured:
    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield f"one {options.max_width}x{options.max_height}\ntwo"


def test_what_is_printed_meanwhile_goes_above(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also a line that was begun before, and markup and escapes in it."""
    with terminal(60, 20) as tty, os.fdopen(os.dup(tty.slave), "w", encoding="utf-8") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        region = screen.Screen(stream)
        region.show(Measured())
        print("begun, ", end="", file=sys.stderr)
        print("[bold]ended[/bold] \x1b[2J\x1b[3A", file=sys.stderr)
        print("x" * 100, file=sys.stderr)
        region.show("three")
        print("left", end="", file=sys.stderr)
        region.stop()
        assert sys.stderr is stream
        print(", then", file=sys.stderr, flush=True)
        tty.wait_for(", then")
        assert "one 59x18" in tty.text() and "three" in tty.text()
        assert "\x1b[2J" not in tty.text() and "\x1b[3A" not in tty.text()
        assert [line for line in tty.screen() if line] == ["begun, [bold]ended[/bold]", "x" * 100, "left", ", then"]


def test_nothing_is_drawn_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    with terminal() as tty, os.fdopen(os.dup(tty.slave), "w", encoding="utf-8") as stream:
        region = screen.Screen(stream)
        for _ in range(3):
            region.show("same")
        region.stop()
        region.stop()
        stream.write("end")
        stream.flush()
        tty.wait_for("end")
        assert tty.text().count("same") == 1


def test_the_region_does_not_get_lower() -> None:
    with terminal() as tty, os.fdopen(os.dup(tty.slave), "w", encoding="utf-8") as stream:
        region = screen.Screen(stream)
        for count in (5, 2, 3):
            region.show("\n".join([f"line{count}"] * count))
        stream.flush()
        tty.wait_for("line3")
        assert tty.screen() == ["line3"] * 3 + ["", ""]
        region.stop()


class TestLive:
    def test_what_comes_after_the_trials(self) -> None:
        view = View(metric="val_acc", done=3, total=9, left=30.0, per_hour=60.0, then="6 trainings")
        assert "30 s left, then 6 trainings" in text.line(view)
        (bar,) = drawn([view], 80, 1)
        assert "30 s left, then 6 trainings" in bar and len(bar) <= 80
        limited = replace(view, until=41.0)
        assert "30 s left, then 6 trainings  ends within 41 s" in text.line(limited)
        assert "ends within 41 s" in text.line(replace(limited, left=None))
        assert "ends within 41 s" in drawn([limited], 120, 1)[0] and "6 trainings" in drawn([limited], 80, 1)[0]

    def test_the_time_that_a_search_has(self, tmp_path: Path) -> None:
        """Only while somebody works on it."""
        path = folder(tmp_path / "a", [0.1, 0.2])
        with Store.open(path / "run.db") as store:
            store.write({"time": {"used": 19.0, "whole": 60.0, "ends": time.time() + 41}})
        assert Followed(path).view("running").until == pytest.approx(41, abs=5)
        assert Followed(path).view().until is None

    def test_the_time_between_two_sittings_is_no_evaluation(self, tmp_path: Path) -> None:
        """Five seconds a trial, one after the other, and between the second and the third a night."""
        path = folder(tmp_path / "a", [0.1, 0.2, 0.3, 0.4])
        begins = [1000, 1005, 50_000, 50_005]
        with Store.open(path / "run.db") as store:
            store.begin()
            store.put("then", "6 trainings")
            for i, begin in enumerate(begins):
                took = "json_set(evaluation, '$.seconds', 4)"
                sql = f"UPDATE trials SET started=?, finished=?, evaluation={took} WHERE id=?"
                asked = 1010 if i == 2 else begin  # that one was interrupted and begun again
                store._db.execute(sql, (asked, begin + 5, i))
            store.commit()
        with stored.Recent.read(path / "run.db") as recent:
            assert isinstance(recent, stored.Recent)
            per_trial = recent.per_trial(stored.PACE, False)
        assert per_trial is not None and 4.5 <= per_trial <= 5
        assert Followed(path).view().then == "6 trainings"

    def test_a_trial_that_is_evaluated_again_began_with_this_sitting(self, tmp_path: Path) -> None:
        path = folder(tmp_path / "a", [0.1])
        with Store.open(path / "run.db") as store:
            store.begin()
            store.add(Trial(1, Proposal(NasBench201().arch([0] * 6))))
            store._db.execute("UPDATE trials SET started=1000 WHERE id=1")
            store.commit()
        (path / "run.lock").touch()
        (running,) = Followed(path).view().running
        assert 0 <= running.seconds < 60
