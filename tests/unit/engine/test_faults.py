"""Memory that runs out, and devices that break: what is tried again, where, and what is said."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nastool.core.errors import (
    CannotGoOn,
    Diverged,
    InputError,
    NastoolError,
    OutOfMemory,
    TrialFailed,
    fault_of,
    kind_of,
    one_line,
)
from nastool.core.values import Objective, Proposal, Trial
from nastool.engine import aside
from nastool.engine.executors import tails
from nastool.engine.executors.base import Setting
from nastool.engine.executors.inline import Inline
from nastool.engine.executors.jobs import EvaluatorSpec, Finished, Job, again, perform
from nastool.engine.executors.processes import Processes
from nastool.engine.executors.slot import Beat, Slot
from nastool.engine.results import of_seeds
from nastool.engine.search import Search
from nastool.engine.store import Store
from nastool.strategies.random_search import RandomSearch
from nastool.tasks.images.data import Images
from tests.helpers.faulty import FULL, ILLEGAL, SPACE, AcceleratorError, Faulty, FaultySpec, OutOfMemoryError

ALL_3X3 = "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|nor_conv_3x3~0|nor_conv_3x3~1|nor_conv_3x3~2|"


def caused(error: Exception, by: Exception) -> Exception:
    error.__cause__ = by
    return error


@pytest.mark.parametrize(
    "error, fault",
    [
        (OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), "memory"),
        (MemoryError(), "memory"),
        (OSError(12, "Cannot allocate memory"), "memory"),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory"),
            "memory",
        ),
        (AcceleratorError("CUDA error: out of memory\nCUDA kernel errors might be"), "memory"),
        (RuntimeError(FULL), "memory"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"), "memory"),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), "memory"),
        (RuntimeError("cuDNN error: CUDNN_STATUS_NOT_INITIALIZED"), "memory"),
        (RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR"), "memory"),
        (RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"), "memory"),
        (RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_COMPILATION_FAILED"), None),
        (RuntimeError("GET was unable to find an engine to execute this computation"), "memory"),
        (RuntimeError("Unable to find a valid cuDNN algorithm to run convolution"), "memory"),
        (caused(TrialFailed("lower the scale"), OutOfMemoryError("CUDA out of memory")), "memory"),
        (OutOfMemory("too little room"), "memory"),
        (AcceleratorError(ILLEGAL), "device"),
        (RuntimeError(ILLEGAL), "device"),
        (RuntimeError("CUDA error: uncorrectable ECC error encountered"), "device"),
        (RuntimeError("CUDA error: CUDA-capable device(s) is/are busy or unavailable"), "device"),
        (RuntimeError("CUDA error: unspecified launch failure"), "device"),
        (RuntimeError("CUDA error: unknown error"), "device"),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), "device"),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED_CUDART"), "device"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm( handle)`"), "device"),
        (RuntimeError("GPU is lost. Reboot the system to recover this GPU"), "device"),
        (RuntimeError("CUDA error: device-side assert triggered"), None),
        (RuntimeError("CUDA error: no kernel image is available for execution on the device"), None),
        (RuntimeError("Error(s) in loading state_dict for Network"), None),
        (ValueError("out of memory"), None),
        (TrialFailed("diverged"), None),
    ],
)
def test_what_kind_of_error_it_is(error: Exception, fault: str | None) -> None:
    assert fault_of(error) == fault
    assert kind_of(error) == (fault or "exception")


@pytest.mark.parametrize(
    "error, fault",
    [
        (Diverged("training loss is nan"), "nan"),
        (FloatingPointError("overflow"), "nan"),
        (OSError(28, "No space left on device"), "machine"),
        (FileNotFoundError(2, "No such file or directory"), "exception"),
        (ZeroDivisionError(), "exception"),
    ],
)
def test_of_which_kind_other_errors_are(error: Exception, fault: str) -> None:
    assert fault_of(error) is None and kind_of(error) == fault


def test_a_worker_that_was_stopped_did_not_hang(tmp_path: Path) -> None:
    """What counts is the time in which it could have made progress."""
    now = [0.0]
    process = SimpleNamespace(connection=SimpleNamespace(send=lambda message: None), stopped=False, kill=lambda: None)
    clock: Any = SimpleNamespace(now=lambda: now[0])
    spec = EvaluatorSpec(SPACE.ref, "faulty", {})
    slot = Slot(lambda number, environment: process, spec, 0, {}, None, clock, lambda number: True)
    slot.start(Job(0, Proposal(SPACE.sample(np.random.default_rng(0))), 0))
    for second in range(1, 301):
        now[0], process.stopped = float(second), 100 < second <= 250
        slot.look(1.0)
    assert slot.quiet == 150 and slot.seconds == 150
    slot._take_beat(Beat(50.0))
    assert slot.quiet == 0
    finished = slot.give_up("it hung", "hung")
    assert again(finished) is not None and again(replace(finished, job=replace(finished.job, deaths=1))) is None


@given(st.text(), st.lists(st.text(alphabet=st.characters(exclude_categories=["Cs"])), max_size=60))
def test_the_end_of_a_log_is_short(before: str, lines: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "log"
        path.write_bytes(before.encode(errors="replace"))
        begin = tails.size(path)
        with path.open("ab") as file:
            file.write("\n".join(lines).encode())
        found = tails.of_file(path, begin)
    assert len(found.splitlines()) <= tails.LINES and len(found.encode()) <= tails.BYTES
    whole = "\n".join("\n".join(lines).splitlines()).strip("\n")
    if len(whole.encode()) < tails.BYTES // 2 and len(whole.splitlines()) <= tails.LINES:
        assert found == whole
    assert tails.of_text("\n".join(lines)) == found
    assert tails.of_file(Path(folder) / "gone", 0) == tails.of_file(None, 0) == ""


def test_torchs_own_errors() -> None:
    import torch

    assert fault_of(torch.OutOfMemoryError("CUDA out of memory")) == "memory"
    accelerator = getattr(torch, "AcceleratorError", RuntimeError)
    assert one_line(accelerator(ILLEGAL)) == f"{accelerator.__name__}: {ILLEGAL.splitlines()[0]}"
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert fault_of(caught.value) == "memory"


# --- what is tried again, and where


@dataclass
class Scene:
    """A search on made-up GPUs. gpus: of each worker."""

    folder: Path
    gpus: Sequence[str]
    how: Mapping[str, Any] = field(default_factory=dict)
    trials: int = 8
    said: list[str] = field(default_factory=list)
    sitting: int = 0

    def pool(self) -> Processes:
        environments = [{"CUDA_VISIBLE_DEVICES": gpu} if gpu else {} for gpu in self.gpus]
        options = {"folder": self.folder, **self.how}
        return Processes(FaultySpec(SPACE.ref, "faulty", options), environments, Setting(say=self.said.append))

    def search(self, **more: Any) -> list[Trial]:
        path = self.folder / "run.db"
        if not path.exists():
            config = {
                "space": {"name": SPACE.name, "options": {}},
                "strategy": {"name": "random", "options": {}},
                "evaluator": {"name": "faulty", "options": {}},
            }
            Store.create(path, {"config": config, "objective": "val_acc:max"}).close()
        pool = self.pool()
        try:
            with Store.open(path, durable=False) as store:
                strategy = RandomSearch(SPACE, seed=0)
                objective = Objective.parse("val_acc")
                search = Search(store, strategy, pool, [objective], 0, self.trials, self.folder, **more)
                search.restore()
                pool.open()
                search.run()
        finally:
            pool.close()
        return self.found()

    def found(self) -> list[Trial]:
        with Store.read(self.folder / "run.db") as store:
            return sorted(store.trials(), key=lambda trial: trial.id)

    def attempts(self) -> list[int]:
        with Store.read(self.folder / "run.db") as store:
            return [attempts for _, (*_, attempts) in sorted(store.times().items())]

    def log(self, trial: object) -> list[tuple[str, int, int]]:
        """(GPU, how many others were busy there, micro-batches) of each try."""
        lines = (line.split() for line in (self.folder / "log").read_text().splitlines())
        return [(gpu, int(others), int(parts)) for name, gpu, others, parts in lines if name == str(trial)]


def metrics(trials: Sequence[Trial]) -> list[Mapping[str, float] | None]:
    return [None if trial.evaluation is None else trial.evaluation.metrics for trial in trials]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> list[Mapping[str, float] | None]:
    return metrics(Scene(tmp_path_factory.mktemp("undisturbed"), ["0", "0"]).search())


@pytest.mark.parametrize("gpus", [["0", "0", "0"], ["0", "1", "0", "1"], ["", ""]])
def test_where_memory_ran_out_it_is_tried_alone(
    tmp_path: Path, gpus: list[str], undisturbed: list[Mapping[str, float] | None]
) -> None:
    scene = Scene(tmp_path, gpus, {"crowded": range(8), "seconds": 0.4, "meet": len(gpus)})
    assert metrics(scene.search()) == undisturbed
    for trial in range(8):
        assert scene.log(trial)[-1][1:] == (0, 1), "nothing beside it, the whole batch"
        assert scene.attempts()[trial] == len(scene.log(trial))
    assert max(scene.attempts()) == 2
    again = [line for line in scene.said if "; next try: with nothing else on its device" in line]
    assert again == scene.said and len(again) == scene.attempts().count(2)
    assert again[0].startswith("trial ") and "OutOfMemoryError: CUDA out of memory. Tried" in again[0]


def test_then_in_micro_batches(tmp_path: Path, undisturbed: list[Mapping[str, float] | None]) -> None:
    scene = Scene(tmp_path, ["0", "0"], {"large": {3: 4}})
    trials = scene.search()
    expected = list(undisturbed)
    expected[3] = {**(expected[3] or {}), "micro_batches": 4}
    assert metrics(trials) == expected
    assert [parts for _, _, parts in scene.log(3)] == [1, 1, 2, 4]
    assert [others for _, others, _ in scene.log(3)][1:] == [0, 0, 0]
    assert scene.attempts() == [1, 1, 1, 4, 1, 1, 1, 1]
    assert [line.partition("; next try: ")[2] for line in scene.said] == [
        "with nothing else on its device",
        "each batch in 2 parts",
        "each batch in 4 parts",
    ]
    assert all(line.startswith(f"trial 3: RuntimeError: {FULL};") for line in scene.said)


@pytest.mark.parametrize("most, tries", [(1, 2), (4, 4)])
def test_as_far_as_the_evaluator_can(tmp_path: Path, most: int, tries: int) -> None:
    scene = Scene(tmp_path, ["0", "0"], {"large": {3: 8}, "most": most}, trials=5)
    trials = scene.search()
    assert [trial.state for trial in trials] == ["done", "done", "done", "failed", "done"]
    assert trials[3].error == f"RuntimeError: {FULL}" and trials[3].fault == "memory"
    assert scene.attempts() == [1, 1, 1, tries, 1]


def test_also_of_what_is_tested(tmp_path: Path) -> None:
    scene = Scene(tmp_path, ["0"], {"test": 2}, trials=1)
    (best,) = scene.search()
    pool = scene.pool()
    try:
        assert aside.test_best(pool, best, 0) == ({"test_acc": 0.5}, None)
        assert [parts for _, _, parts in scene.log("test")] == [1, 1, 2]
        pool.submit(Job(0, best.proposal, 1, "both"))
        (event,) = (e for e in iter_events(pool) if isinstance(e, Finished))
        assert event.fault == "memory" and event.job.task == "test", "what is trained need not be trained again"
    finally:
        pool.close()


def iter_events(pool: Processes) -> list[Any]:
    events: list[Any] = []
    while pool.busy:
        events += pool.wait(1.0)
    return events


def test_outside_of_a_search_and_in_this_process(tmp_path: Path) -> None:
    proposals = [Proposal(SPACE.sample(np.random.default_rng(0)))]
    pool = Inline(Faulty(SPACE, folder=tmp_path, large={10**9: 2}))
    (evaluation,) = aside.evaluate_all(pool, proposals, lambda: False)
    assert evaluation.metrics["micro_batches"] == 2
    for how, why in (
        ({"large": {10**9: 99}}, "RuntimeError: CUDA error: CUBLAS"),
        ({"poison": [10**9]}, "Accelerator"),
    ):
        with pytest.raises(NastoolError, match=f"could not be evaluated: {why}"):
            list(aside.evaluate_all(Inline(Faulty(SPACE, folder=tmp_path, **how)), proposals, lambda: False))


def test_seeds_of_which_one_was_split() -> None:
    runs = [{"seed": 0, "metrics": {"val_acc": 0.5, "micro_batches": 2}}, {"seed": 1, "metrics": {"val_acc": 0.7}}]
    for order in (runs, runs[::-1]):
        found = of_seeds(order)
        assert found["metrics"] == order[0]["metrics"]
        assert found["mean"] == {"val_acc": pytest.approx(0.6)} and found["std"].keys() == {"val_acc"}


# --- devices that break


def test_a_broken_gpu_is_not_used_any_more(tmp_path: Path, undisturbed: list[Mapping[str, float] | None]) -> None:
    """Also where it has several workers; and no trial fails for it, whatever --max-failures is."""
    scene = Scene(tmp_path, ["0", "1", "0", "1"], {"broken": ("1",)})
    assert metrics(scene.search(max_failures=1)) == undisturbed
    tried = [try_ for trial in range(8) for try_ in scene.log(trial) if try_[0] == "1"]
    assert 2 <= len(tried) <= 3, "one more may have begun"
    assert sum(scene.attempts()) == 8 + len(tried)
    assert [line for line in scene.said if "is not used any more" in line] == [
        "GPU 1 failed 2 times in a row and is not used any more: AcceleratorError: CUDA error: an illegal memory "
        "access was encountered"
    ]
    assert sum(line.endswith(" (GPU 1); next try: on another, if there is one") for line in scene.said) == len(tried)


def test_when_no_gpu_is_left_the_search_can_be_continued(
    tmp_path: Path, undisturbed: list[Mapping[str, float] | None]
) -> None:
    scene = Scene(tmp_path, ["0", "1"], {"broken": ("0", "1")})
    with pytest.raises(InputError) as caught:
        scene.search()
    text = str(caught.value)
    assert text.startswith(("GPU 0, the last that was left, failed 2 times in a row: Acc", "GPU 1, the last"))
    assert "CUDA_VISIBLE_DEVICES" in text and text.endswith("then give the same command again") and "\n" not in text
    assert {trial.state for trial in scene.found()} == {"running"}
    scene.how = {}
    assert metrics(scene.search()) == undisturbed


@pytest.mark.parametrize("gpus", [["0"], ["0", "1"], ["0", "0", "1", "1"]])
def test_after_one_fault_it_is_tried_elsewhere(
    tmp_path: Path, gpus: list[str], undisturbed: list[Mapping[str, float] | None]
) -> None:
    scene = Scene(tmp_path, gpus, {"once": (2, 6)})
    assert metrics(scene.search()) == undisturbed
    assert scene.attempts() == [1, 1, 2, 1, 1, 1, 2, 1]
    for trial in (2, 6):
        (first, _, _), (second, _, _) = scene.log(trial)
        assert (first != second) == (len(set(gpus)) > 1)
    if len(gpus) == 1:  # of several workers both may fail in a row on one GPU, which is left out then
        assert not any("not used" in line for line in scene.said)


def test_who_fails_on_two_sound_gpus_is_at_fault(tmp_path: Path) -> None:
    """But that is no reason to give up: the trials before and after it are none."""
    scene = Scene(tmp_path, ["0", "1"], {"poison": (2,), "wrong": (1, 3)})
    trials = scene.search(max_failures=3)
    states = ["done", "failed", "failed", "failed", "done", "done", "done", "done"]
    assert [trial.state for trial in trials] == states
    error = trials[2].error or ""
    assert error.startswith("AcceleratorError: CUDA error: an illegal memory access was encountered (GPU ")
    assert [trial.fault for trial in trials[1:4]] == ["exception", "device", "exception"]
    assert {gpu for gpu, _, _ in scene.log(2)} == {"0", "1"}


# --- preparing


def test_a_worker_that_finds_no_room_is_left_out(tmp_path: Path, undisturbed: list[Mapping[str, float] | None]) -> None:
    scene = Scene(tmp_path, ["0", "0", "0"], {"room": 2})
    assert metrics(scene.search()) == undisturbed
    assert len(scene.said) == 1
    assert scene.said[0].startswith("worker ")
    assert scene.said[0].endswith(": the images take 2 GB, and 1 GB is free; 2 go on without it")
    assert scene.attempts() == [1] * 8


def test_without_room_for_the_first_nothing_begins(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^the images take 2 GB, and 1 GB is free$"):
        Scene(tmp_path, ["0", "1"], {"room": 0}).pool().open()


def test_the_first_worker_starts_where_it_can(tmp_path: Path) -> None:
    scene = Scene(tmp_path, ["0", "1"], {"unprepared": ("0",)}, trials=3)
    assert [trial.state for trial in scene.search()] == ["done"] * 3
    ecc = "AcceleratorError: CUDA error: uncorrectable ECC error encountered"
    assert scene.said == [f"GPU 0 failed 2 times in a row and is not used any more: {ecc}"]
    scene.how = {"unprepared": ("0", "1")}
    with pytest.raises(CannotGoOn, match=rf"^GPU 1, the last that was left, failed 2 times in a row: {ecc}; see "):
        scene.pool().open()


def test_a_later_worker_that_cannot_start(tmp_path: Path, undisturbed: list[Mapping[str, float] | None]) -> None:
    scene = Scene(tmp_path, ["0", "1"], {"unprepared": ("1",), "seconds": 0.5})
    assert metrics(scene.search(max_failures=1)) == undisturbed
    assert sum(scene.attempts()) > 8
    ecc = "AcceleratorError: CUDA error: uncorrectable ECC error encountered"
    assert f"trial 1: {ecc} (GPU 1); next try: on another, if there is one" in scene.said


def test_which_worker_died_at_its_start(tmp_path: Path) -> None:
    scene = Scene(tmp_path, ["0", "1"], {"dying": ("1",)})
    pool = scene.pool()
    try:
        pool.open()
        for trial in range(2):
            pool.submit(Job(trial, Proposal(SPACE.sample(np.random.default_rng(trial))), 0))
        ended = [event for event in iter_events(pool) if isinstance(event, Finished)]
        assert sorted(str(event.error) for event in ended) == ["None", "worker 1 died at its start: exit code 3"]
        assert all(event.retry for event in ended if event.error)
    finally:
        pool.close()
    scene.how = {"dying": ("0",)}
    with pytest.raises(NastoolError, match=r"^the first worker died at its start: exit code 3$"):
        scene.pool().open()


# --- on CUDA devices


@pytest.fixture
def picky(tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Makes an evaluator on a CUDA device; what is cached there is given back before and after."""
    import torch

    from nastool.evaluators.train import Train
    from tests.unit.evaluators.test_train import npz

    torch.cuda.empty_cache()
    path = npz(tmp_path / "images.npz", side=32, channels=3)

    def make(**options: Any) -> Any:
        defaults: dict[str, Any] = {"device": "cuda", "precision": "fp32", "epochs": 1, "batch_size": 64}
        found = Train(SPACE, data=path, **{**defaults, "scale": {"channels": 16, "cells": 1}, **options})
        found.workdir = tmp_path
        return found

    yield make
    torch.cuda.set_per_process_memory_fraction(1.0)
    torch.cuda.empty_cache()


def limit(size: int) -> None:
    """Let this process have so many bytes of the GPU's memory."""
    import torch

    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(size / torch.cuda.mem_get_info()[1])


@pytest.mark.gpu
def test_memory_that_runs_out_on_a_gpu(picky: Callable[..., Any]) -> None:
    import torch

    evaluator = picky()
    evaluator.prepare()
    proposal = Proposal(SPACE.from_string(ALL_3X3))
    needs: dict[int, int] = {}
    for parts in (1, 4):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        whole = perform(evaluator, Job(0, proposal, 1, "both", micro_batches=parts), lambda *_: None)
        assert whole.tested
        needs[parts] = torch.cuda.max_memory_reserved()
    assert needs[4] < 0.8 * needs[1]
    limit((needs[1] + needs[4]) // 2)
    failed = perform(evaluator, Job(1, proposal, 1, "both"), lambda *_: None)
    assert failed.error == "out of GPU memory with batch_size 64; lower it, or the scale"
    assert (failed.fault, failed.unsound, failed.divisible) == ("memory", True, True)
    done = perform(evaluator, Job(1, proposal, 1, "both", micro_batches=4), lambda *_: None)
    assert done.evaluation is not None and done.evaluation.metrics["micro_batches"] == 4 and done.tested
    limit(torch.cuda.memory_reserved())
    filling: list[Any] = []
    for size in (1 << 20, 1 << 16, 512):
        with suppress(torch.OutOfMemoryError):
            while True:
                filling.append(torch.empty(size, dtype=torch.uint8, device="cuda"))
    assert perform(evaluator, Job(1, proposal, 1, "test", done.evaluation), lambda *_: None).fault == "memory"


@pytest.mark.gpu
def test_data_take_no_more_room_than_they_have(picky: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from nastool.tasks.images.augment import ImageBatches

    evaluator = picky()
    evaluator.prepare()
    images = Images(np.random.default_rng(0).integers(0, 255, (9000, 3, 32, 32), np.uint8), np.zeros(9000, np.int64))
    monkeypatch.setattr("nastool.tasks.images.augment.SLICE", 1 << 20)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    there = ImageBatches(evaluator.data, images, evaluator.device, torch.channels_last)
    assert torch.cuda.max_memory_allocated() - before <= images.x.nbytes + images.y.nbytes + (1 << 20)
    assert there.x.is_contiguous(memory_format=torch.channels_last)
    assert np.array_equal(there.x.cpu().numpy(), images.x)


@pytest.mark.gpu
def test_too_little_room_for_the_data(picky: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    torch.cuda.set_per_process_memory_fraction(1e-9)
    line = r"the images of npz:.* take 7.37 MB of the GPU's memory, and .* of its .* are free: have fewer --workers on"
    for _ in range(2):
        with pytest.raises(OutOfMemory, match=line):
            picky(image_size=128).prepare()
        torch.cuda.set_per_process_memory_fraction(1.0)
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda *_: (5_000_000, 24_000_000))
        line = r"and 5 MB of its 24 MB are free: .*, give a smaller -E image_size= or train_size=, or -E device=cpu$"


def test_a_gpu_that_breaks_during_a_search(tmp_path: Path, fake_machine: Callable[..., dict[str, str]]) -> None:
    """From its 60th kernel on, in every process, GPU 1 answers with an illegal address."""
    from tests.unit.evaluators.test_train import npz

    command = [sys.executable, "-m", "nastool", "search", "--space", "nasbench201", "--strategy", "random", "-n", "5"]
    command += ["--data", npz(tmp_path / "images.npz"), "--epochs", "1", "--scale", "channels=4,cells=1"]
    command += ["--workers", "2", "--out", str(tmp_path / "run")]
    environment = {**os.environ, **fake_machine(devices=2, FAKE_CUDA_ERROR="700@60:1")}
    result = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    with Store.read(tmp_path / "run" / "run.db") as store:
        assert {trial.state for trial in store.trials()} == {"done"}
    illegal = "CUDA error: an illegal memory access was encountered (GPU 1); next try: on another, if there is one\n"
    assert illegal in result.stderr


def test_no_gpu_that_works_is_one_line(tmp_path: Path, fake_machine: Callable[..., dict[str, str]]) -> None:
    command = [sys.executable, "-m", "nastool", "search", "--space", "nasbench201", "--data", "digits", "--out", "run"]
    environment = {**os.environ, **fake_machine(FAKE_CUDA_ERROR="214@0")}
    result = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert result.returncode == 2
    start = "nastool: GPU 0 failed 2 times in a row: AcceleratorError: CUDA error: uncorrectable ECC error encountered"
    assert result.stderr.startswith(start) and result.stderr.endswith(", then give the same command again\n")
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()
