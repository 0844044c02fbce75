"""Which devices are there, and which worker gets which; on fake ones, where CUDA itself has a say."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from nastool.core.errors import InputError
from nastool.core.values import Proposal
from nastool.engine.executors.jobs import EvaluatorSpec, Finished, Job
from nastool.engine.executors.processes import Processes
from nastool.engine.store import Store
from nastool.evaluators.supernet import Supernet
from nastool.evaluators.train import Train
from nastool.nets import devices
from nastool.nets.devices import Cuda, Gpu
from nastool.spaces.nasbench201 import NasBench201
from nastool.training import hardware
from tests.helpers.running import Run

Machine = Callable[..., dict[str, str]]
SMALL = ["--data", "digits", "--epochs", "1", "-E", "train_size=50", "--scale", "channels=2,cells=1"]
OLD = "Tesla K80 has compute capability 3.7, and torch is built for sm_90"


def gpu(index: int, model: str = "NVIDIA H100", problem: str | None = None) -> Gpu:
    return Gpu(index, str(index), model, f"GPU-{index}", (9, 0), 80 << 30, None, problem)


def machine(*models: str) -> Cuda:
    return Cuda(tuple(gpu(i, model, OLD if "K80" in model else None) for i, model in enumerate(models)))


def shown(count: int) -> Cuda:
    """What is left, where CUDA_VISIBLE_DEVICES names more."""
    return Cuda(tuple(map(gpu, range(count))), None, "CUDA_VISIBLE_DEVICES=0,9: CUDA shows no device '9'")


@pytest.fixture(autouse=True)
def asked_anew() -> Iterator[None]:
    yield
    devices._looked.clear()


# --- who gets which


def dealt(
    found: Cuda, workers: int, device: str, monkeypatch: pytest.MonkeyPatch
) -> tuple[list[str | None], list[str]]:
    """What CUDA_VISIBLE_DEVICES is for each worker, and what is said."""
    monkeypatch.setattr(devices, "look", lambda: found)
    said: list[str] = []
    slots = devices.slots(workers, device, None, said.append)
    return [slot.get(devices.VARIABLE) for slot in slots], said


def test_gpus_are_dealt_out_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    two = machine("A", "A")
    assert dealt(two, 3, "auto", monkeypatch) == (["0", "1", "0"], [])
    assert dealt(two, 2, "cpu", monkeypatch) == ([None, None], [])
    assert dealt(Cuda(), 2, "auto", monkeypatch) == ([None, None], [])
    assert dealt(machine("A"), 4, "cuda:0", monkeypatch) == ([None] * 4, [])


def test_what_is_left_over_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    eight = machine(*["A"] * 8)
    assert dealt(eight, 1, "auto", monkeypatch) == (["0"], ["note: 1 worker on 1 of 8 GPUs: --workers 8 takes all"])
    _, said = dealt(eight, 4, "cuda:1", monkeypatch)
    assert said == ["note: all 4 workers are on cuda:1 (A): device=cuda deals out all 8 GPUs"]
    said.clear()
    devices.slots(1, "auto", None, said.append, 1)
    assert said == [], "shared weights are trained by one worker"
    _, said = dealt(machine("A", "B"), 2, "auto", monkeypatch)
    assert said == ["note: the workers' GPUs are of different models, which round differently: A, B"]


def test_gpus_that_torch_cannot_use_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    mixed, old = machine("K80", "A", "K80"), machine("K80", "K80")
    assert dealt(mixed, 2, "auto", monkeypatch) == (["1", "1"], [f"note: {OLD}; it is left out"])
    slots, said = dealt(old, 2, "auto", monkeypatch)
    assert slots == ["", ""] and len(said) == 1 and said[0].startswith(f"note: {OLD}; so this runs on the CPU")
    for device in ("cuda", "cuda:1"):
        with pytest.raises(InputError) as caught:
            dealt(old, 1, device, monkeypatch)
        assert str(caught.value) == f"device {device}: {OLD}; give device=cpu or another"
    assert str(caught.value).count("\n") == 0


@pytest.mark.parametrize(
    ("device", "found", "message"),
    [
        ("cuda", Cuda(), "device cuda: no CUDA device is visible; give device=cpu"),
        ("cuda", Cuda((), "the driver is old"), "device cuda: the driver is old; give device=cpu"),
        (
            "cuda:2",
            machine("A", "A"),
            "device cuda:2: there are 2 CUDA devices, numbered from 0; give a lower number",
        ),
        ("auto", shown(1), f"{shown(1).hidden}; name others, unset it, or give device=cpu"),
    ],
)
def test_missing_devices(device: str, found: Cuda, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before a worker is started, and in one."""
    with pytest.raises(InputError) as caught:
        dealt(found, 1, device, monkeypatch)
    assert str(caught.value) == message
    monkeypatch.setattr(devices, "seen", lambda: found)
    with pytest.raises(InputError) as caught:
        hardware.device_of(device)
    assert str(caught.value) == message


def test_auto_device(monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = machine("A"), machine("K80", "A")
    for found, option, expected in (
        (Cuda(), "auto", "cpu"),
        (Cuda((), "the driver is old"), "auto", "cpu"),
        (one, "auto", "cuda:0"),
        (two, "auto", "cuda:1"),
        (two, "cuda:1", "cuda:1"),
        (one, "cpu", "cpu"),
    ):
        monkeypatch.setattr(devices, "seen", lambda found=found: found)
        assert str(hardware.device_of(option)) == expected


# --- what is there


@pytest.mark.parametrize("capability, architectures, expected", [
    ((8, 6), ["sm_80"], True),
    ((8, 0), ["sm_86"], False),
    ((9, 0), ["sm_80", "compute_80"], True),
    ((9, 0), ["sm_80"], False),
    ((12, 1), ["sm_90", "sm_120"], True),
    ((9, 0), ["sm_90a"], True),
    ((10, 3), ["sm_100a", "compute_120"], False),
    ((6, 1), ["sm_75", "sm_80"], False),
])  # fmt: skip
def test_what_code_runs_on(capability: tuple[int, int], architectures: list[str], expected: bool) -> None:
    """By the rules of NVIDIA's "CUDA C++ Programming Guide", 3.1.2 to 3.1.4."""
    assert devices.runs_on(capability, architectures) is expected


def without_driver(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    monkeypatch.setattr(devices, "ROOT", root)
    monkeypatch.setattr("ctypes.CDLL", lambda name: (_ for _ in ()).throw(OSError(name)))
    monkeypatch.setattr(devices, "_ask", lambda *given: pytest.fail("a process was started"))


def test_without_a_gpu_nobody_is_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    without_driver(monkeypatch, tmp_path)
    monkeypatch.delenv(devices.VARIABLE, raising=False)
    assert devices.look() == Cuda()
    for given in ("", "-1", "NoDevFiles"):
        monkeypatch.setenv(devices.VARIABLE, given)
        assert devices.look() == Cuda()
    monkeypatch.setenv(devices.VARIABLE, "0")
    assert devices.look().hidden == "CUDA_VISIBLE_DEVICES=0: CUDA shows no device '0'"


@pytest.mark.parametrize("trace", ["dev/nvidia0", "proc/driver/nvidia", "sys/bus/pci/devices/0000:01:00.0/vendor"])
def test_a_gpu_without_a_driver_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, trace: str) -> None:
    (tmp_path / trace).parent.mkdir(parents=True)
    (tmp_path / trace).write_text("0x10de\n")
    (tmp_path / trace).with_name("class").write_text("0x030200\n")
    without_driver(monkeypatch, tmp_path)
    monkeypatch.delenv(devices.VARIABLE, raising=False)
    said: list[str] = []
    assert devices.VARIABLE not in devices.slots(1, "auto", None, said.append)[0]
    assert len(said) == 1 and "no CUDA driver" in said[0] and "so this runs on the CPU" in said[0]
    with pytest.raises(InputError, match=r"^device cuda: an NVIDIA GPU is there, but no CUDA driver"):
        devices.slots(1, "cuda")
    monkeypatch.setenv(devices.VARIABLE, "-1")
    assert devices.look() == Cuda(), "it is hidden on purpose"


SEEN = """
import json, os, sys, pathlib
import torch
from nastool.nets import devices, driver
for environment in json.loads(sys.argv[1]):
    if os.fork() == 0:
        os.environ.update(environment)
        devices.ROOT = pathlib.Path(environment.get("ROOT", "/"))
        found = devices.seen()
        quick = driver.gpus()  # says the same without torch, or nothing
        assert devices._named(quick) == found if quick else environment or sys.exit("no driver")
        told = [[(gpu.names, gpu.model, gpu.problem) for gpu in found.gpus], found.problem, found.hidden]
        print(json.dumps(told), flush=True)
        os._exit(0)
    os.wait()
"""


@pytest.mark.gpu
def test_what_cuda_shows(fake_machine: Machine, tmp_path: Path) -> None:
    """As CUDA counts, not as we read the variable; and why it shows nothing, in one line."""
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev" / "nvidia0").touch()
    shown = {
        "1,0": (["1", "0"], None),
        " 1 ": (["1"], None),
        "0,": (["0"], None),
        "0,-1": (["0"], None),
        "": ([], None),
        "-1": ([], None),
        "GPU-01,GPU-00000000": (["GPU-01", "GPU-00000000"], None),
        "MIG-1": (["MIG-1"], None),
        "0,9": (["0"], "CUDA shows no device '9'"),
        "0,-1,1": (["0"], "CUDA shows no device '-1' and none after it"),
        "9": ([], "CUDA shows no device '9'"),
        "abc": ([], "CUDA shows no device 'abc'"),
        "9,0": ([], "CUDA shows none of these: "),
        "0,0": ([], "one named twice hides all"),
        "0,GPU-00": ([], "one named twice hides all"),
    }
    broken = {
        "35": "the NVIDIA driver is too old: it has CUDA 11.0, torch ",
        "803": "CUDA does not start (error 803: system has unsupported display driver",
        "804": "CUDA does not start (error 804: forward compatibility was attempted on non supported HW)",
        "999": "CUDA does not start (error 999: CUDA unknown error)",
        "100": "an NVIDIA GPU is there, but CUDA shows none",
    }
    capabilities = {"75": None, "121": None, "61": "has compute capability 6.1, and torch", "130": "capability 13.0"}
    cases = [
        *({devices.VARIABLE: visible} for visible in shown),
        *({"FAKE_CUDA_COUNT_ERROR": code, "ROOT": str(tmp_path)} for code in broken),
        *({"FAKE_CUDA_CC": capability} for capability in capabilities),
        {},
    ]
    environment = {**os.environ, **fake_machine(devices=2)}
    environment.pop(devices.VARIABLE, None)
    command = [sys.executable, "-W", "error", "-c", SEEN, json.dumps(cases)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == "", done
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(found) == len(cases)
    assert found[-1] == [[["0", "Fake GPU 0", None], ["1", "Fake GPU 1", None]], None, None]
    for (visible, (names, hidden)), (gpus, problem, told) in zip(shown.items(), found, strict=False):
        assert [gpu[0] for gpu in gpus] == names and problem is None, visible
        assert told is None if hidden is None else told.startswith(f"{devices.VARIABLE}={visible}: "), visible
        assert hidden is None or hidden in told
    del found[: len(shown)]
    for text, (gpus, problem, _) in zip(broken.values(), found, strict=False):
        assert gpus == [] and text in problem and "\n" not in problem
    del found[: len(broken)]
    for misfit, (gpus, problem, _) in zip(capabilities.values(), found, strict=False):
        assert problem is None
        assert all(told is None if misfit is None else misfit in told and "sm_" in told for _, _, told in gpus)


@pytest.mark.gpu
def test_what_a_search_would_be_shown(fake_machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked of other processes: of MIG instances, CUDA shows a process only one."""
    for name, value in fake_machine(devices=3).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv(devices.VARIABLE, "MIG-2,MIG-0")
    assert [(gpu.index, gpu.names, gpu.model) for gpu in devices.look().gpus] == [
        (0, "MIG-2", "Fake GPU 2"),
        (1, "MIG-0", "Fake GPU 0"),
    ]
    assert [slot[devices.VARIABLE] for slot in devices.slots(2)] == ["MIG-2", "MIG-0"]


# --- searches on fake devices


@pytest.mark.gpu
def test_a_device_that_is_not_there_stops_the_search(
    run: Run, fake_machine: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, value in fake_machine(devices=2).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv(devices.VARIABLE, "0,9")
    refused = run("search", "-s", "random", *SMALL, "-n", "2", "--workers", "2", "--out", "r")
    refused.refused("CUDA_VISIBLE_DEVICES=0,9: CUDA shows no device '9'; there are 0 (Fake GPU 0), 1 (Fake GPU 1)")
    assert not (tmp_path / "r").exists()
    run("search", "-s", "random", *SMALL, "--dry-run").refused("CUDA_VISIBLE_DEVICES=0,9: CUDA shows no device '9'")


@pytest.mark.gpu
def test_a_worker_that_computes_otherwise_stops_the_run(fake_machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in fake_machine(devices=2).items():
        monkeypatch.setenv(name, value)
    space = NasBench201()
    options: dict[str, Any] = {"data": "digits", "train_size": 50, "epochs": 1, "scale": {"channels": 2, "cells": 1}}
    old = {devices.VARIABLE: "1", "FAKE_CUDA_CC": "75"}
    slots = [{devices.VARIABLE: "0"}, {devices.VARIABLE: ""}, old, {devices.VARIABLE: "7"}]
    pool = Processes(EvaluatorSpec(space.ref, "train", options), slots)
    found: set[str] = set()
    lost: list[Finished] = []
    try:
        assert pool.open()["device"] == "Fake GPU 0"
        for number in range(4):
            pool.submit(Job(number, Proposal(space.arch([0] * 6)), 0))
        while (len(found) < 2 or not lost) and pool.busy:
            try:
                lost += [event for event in pool.wait(1.0) if isinstance(event, Finished) and event.fault == "device"]
            except InputError as error:
                found.add(str(error).partition(": give ")[0])
    finally:
        pool.close()
    assert found == {
        "worker 1 (CUDA_VISIBLE_DEVICES=) computes on cpu, 1 threads in fp32, and the first on Fake GPU 0 in bf16",
        "worker 2 (CUDA_VISIBLE_DEVICES=1) computes on Fake GPU 1 in fp32, and the first on Fake GPU 0 in bf16",
    }
    (gone,) = lost  # since the devices were dealt out: it may be tried elsewhere
    assert "CUDA_VISIBLE_DEVICES=7: CUDA shows no device '7'" in (gone.error or "")


# --- precision


@pytest.mark.parametrize(
    ("option", "capability", "expected"),
    [
        ("auto", None, "fp32"),
        ("fp32", None, "fp32"),
        ("bf16", None, "bf16"),
        ("tf32", None, "precision=tf32 is for GPUs of compute capability 8.0 or higher, and this is the CPU: give pre"),
        ("auto", (9, 0), "bf16"),
        ("auto", (8, 0), "bf16"),
        ("auto", (7, 5), "fp32"),
        ("fp32", (9, 0), "fp32"),
        ("tf32", (9, 0), "tf32"),
        ("tf32", (7, 5), "precision=tf32 is for GPUs of compute capability 8.0 or higher, and Tesla T4 has 7.5: give "),
        ("bf16", (7, 0), "precision=bf16 is for GPUs of compute capability 8.0 or higher, and Tesla T4 has 7.0: give "),
    ],
)
def test_precision(
    option: str, capability: tuple[int, int] | None, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")
    device = torch.device("cpu" if capability is None else "cuda")
    if "precision=" not in expected:
        assert hardware.precision_of(option, device) == expected
        return
    with pytest.raises(InputError) as caught:
        hardware.precision_of(option, device)
    assert str(caught.value).startswith(expected)


@pytest.mark.gpu
@pytest.mark.parametrize("kind", [Train, Supernet])
def test_only_tf32_is_tf32(kind: type[Train | Supernet]) -> None:
    """torch's own default would round what goes into cuDNN's convolutions in "fp32", too."""
    seen: set[bool] = set()

    class Watching(kind):  # type: ignore[misc, valid-type]
        def build(self, arch: Any, seed: int) -> Any:
            return watched(super().build(arch, seed))

        def supernet(self) -> Any:
            return watched(super().supernet())

    def watched(network: torch.nn.Module) -> torch.nn.Module:
        def look(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            if len(inputs[0]) > 1:  # of one image only FLOPs are counted
                seen.add(torch.backends.cudnn.allow_tf32)

        network.register_forward_pre_hook(look)
        return network

    space = NasBench201()
    for precision, expected in (("fp32", False), ("tf32", True)):
        scale = {"channels": 2, "cells": 1}
        evaluator = Watching(
            space, data="digits", train_size=40, epochs=1, scale=scale, device="cuda", precision=precision
        )
        evaluator.prepare()
        assert evaluator.describe()["precision"] == precision
        evaluator.evaluate(0, Proposal(space.arch([3] * 6)), seed=0, report=lambda step, metrics: None)
        assert seen == {expected}
        seen.clear()


def test_a_run_goes_on_in_its_precision(run: Run) -> None:
    """Whatever "auto" means here; also one of an earlier version, which called TF32 fp32."""
    command = ["search", "-s", "random", *SMALL, "--device", "cpu"]
    assert run(*command, "-n", "1", "--out", "r").code == 0
    for name, kept in (
        ("kept", {"settled": {"precision": "bf16"}, "device": "NVIDIA H100"}),
        ("old", {"settled": None, "device": None}),
    ):
        shutil.copytree("r", name)
        with Store.open(Path(name, "run.db")) as store:
            assert store.get("settled")["precision"] == "fp32" and store.get("device").startswith("cpu")
            store.begin()
            for key, value in kept.items():
                store.put(key, value)
            store.commit()
        facts = Path(name, "run.yaml").read_text()
        Path(name, "run.yaml").write_text(re.sub("device: cpu, . threads", "device: NVIDIA H100", facts))
    found = run(*command, "-n", "2", "--out", "kept")
    assert found.code == 0, found
    note = r"note: kept began on NVIDIA H100 and goes on on cpu, \d threads in bf16: metrics are rounded otherwise"
    assert re.search(note, found.err)
    run(*command, "-n", "2", "--out", "old").refused("precision=tf32 is for GPUs of compute capability 8.0")


# --- nastool devices


SMI = """#!/bin/sh
case "$1" in
--query-gpu=*)
    echo "GPU-01000000-0000-0000-0000-000000000000, 1024, 97"
    echo "GPU-00000000-0000-0000-0000-000000000000, [N/A], [N/A]" ;;
*)
    echo "GPU-01000000-0000-0000-0000-000000000000, 1, 79872, /usr/bin/python, 3"
    echo "nonsense" ;;
esac
"""


@pytest.mark.gpu
def test_devices_are_shown_as_cuda_has_them(
    run: Run, fake_machine: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, value in fake_machine(devices=3).items():
        monkeypatch.setenv(name, value)
    (tmp_path / "nvidia-smi").write_text(SMI)
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv(devices.VARIABLE, "1,GPU-00")
    monkeypatch.setenv("COLUMNS", "200")
    first, second, cpu = run("devices", "--workers", "3").accepted()
    assert (first["device"], first["name"], first[devices.VARIABLE]) == ("cuda:0", "Fake GPU 1", "1")
    assert (first["free"], first["busy"], first["memory"]) == (1 << 30, 97, 80 << 30)
    (process,) = first["processes"]
    assert (process["pid"], process["name"], process["memory"]) == (1, "python, 3", 78 << 30)
    assert (first["capability"], first["precision"], first["workers"]) == ("9.0", "bf16", [0, 2])
    assert (second["free"], second["busy"], second["processes"]) == (80 << 30, None, [])
    assert (second["name"], second["workers"]) == ("Fake GPU 0", [1])
    assert (cpu["device"], cpu["precision"], cpu["workers"]) == ("cpu", "fp32", []) and cpu["cores"] >= 1
    shown = run("devices", "--text", "--device", "cuda:1", "--workers", "2")
    assert "note: all 2 workers are on cuda:1 (Fake GPU 0): device=cuda deals out all 2 GPUs" in shown.err
    assert re.search(r"cuda:0 +Fake GPU 1 +1.0 of 80.0 GiB +97% busy; python, 3 \(process 1.* none\n", shown.out)
    assert re.search(r"cuda:1 +Fake GPU 0 +80.0 of 80.0 GiB +nobody +0, 1 in bf16\n", shown.out)
    monkeypatch.setenv(devices.VARIABLE, "GPU-00,3")
    run("devices").refused("CUDA_VISIBLE_DEVICES=GPU-00,3: CUDA shows no device '3'; there are GPU-00000000, GPU-0100")


def test_without_gpus_there_is_the_cpu(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    without_driver(monkeypatch, tmp_path)
    monkeypatch.delenv(devices.VARIABLE, raising=False)
    (cpu,) = run("devices", "--workers", "2").accepted()
    assert cpu["device"] == "cpu" and cpu["workers"] == [0, 1]
    assert "0, 1 in fp32" in run("devices", "--workers", "2", "--text").out
    run("devices", "--device", "gpu").refused("device: need auto, cpu, cuda or cuda:N, got 'gpu'")
    run("devices", "--device", "cuda").refused("device cuda: no CUDA device is visible; give device=cpu")
