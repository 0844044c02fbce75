"""Markers that skip visibly, and the real data that some tests need."""

from __future__ import annotations

import io
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from nastool import cli
from nastool.core import children
from tests.helpers import fake_cuda as fake
from tests.helpers.running import Outcome, Run, changed, in_this_process

if TYPE_CHECKING:
    from tests.helpers.fake_cuda.shadow import Shadow

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # in the background of a shell; commands would inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ.setdefault("OMP_NUM_THREADS", "1")  # networks here are tiny, and several tests run at a time
os.environ.setdefault("NASTOOL_SEARCH_REPORT", "0")  # a report takes seconds; those who want one ask for it
os.environ.setdefault("NASTOOL_RETRAIN_REPORT", "0")

children.LATE.add("PYTEST_CURRENT_TEST")  # or each test would have a process of its own to fork its workers

settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])  # others are at work
settings.load_profile("untimed")

ROOT = Path(__file__).resolve().parent.parent
collect_ignore = ["helpers"]  # no doctests there, and it looks for torch where it must not be imported


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="also run tests that take minutes")
    parser.addoption("--fake-cuda", type=int, metavar="N", help="on N fake devices (tests/helpers/fake_cuda)")


APART = pytest.StashKey[bool]()
"""Whether this worker collects the tests in an order of its own."""


def parts(name: str) -> list[str]:
    """Of what pytest is given: of all tests each folder of unit tests and the other folders by themselves."""
    path = Path(name)
    if not (path / "unit").is_dir():
        return [name]
    others = [each for each in path.glob("*/") if each.name not in ("helpers", "unit")]
    found = (*others, *path.glob("unit/*/"), *path.glob("unit/test_*.py"))
    return sorted(str(each) for each in found if not each.name.startswith("_"))


def pytest_configure(config: pytest.Config) -> None:
    worker, workers = os.environ.get("PYTEST_XDIST_WORKER"), int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 1))
    found = [part for name in config.args for part in parts(name)]
    if worker is not None and len(found) > len(config.args):
        # in a fresh clone each rewrites other files' assertions first, and then reads what the others have written
        first = int(worker[2:]) * len(found) // workers
        config.args[:] = found[first:] + found[:first]
        config.stash[APART] = True
    devices = config.getoption("--fake-cuda")
    if devices is None or fake.active() or fake.missing():
        return
    capture = config.pluginmanager.getplugin("capturemanager")
    if capture is not None:
        capture.suspend_global_capture(in_=True)
    # a preloaded library counts from a process' start
    command = [sys.executable, "-m", "pytest", *config.invocation_params.args]
    os.execve(sys.executable, command, {**os.environ, **fake.environment(devices)})


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.stash.get(APART, False):
        items.sort(key=lambda item: item.path)  # of all workers the same order
    for item in items:
        if "slow" in item.keywords and not config.getoption("--slow"):
            item.add_marker(pytest.mark.skip(reason="slow: run with --slow"))
        if "gpu" in item.keywords and not fake.active():
            import torch

            if not torch.cuda.is_available():
                reason = fake.missing() if config.getoption("--fake-cuda") is not None else None
                item.add_marker(pytest.mark.skip(reason=reason or "needs a CUDA device: run with --fake-cuda 2 -m gpu"))


@pytest.fixture(scope="session", autouse=True)
def _own_state(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Nothing is noted in the home of whoever tests."""
    os.environ["XDG_STATE_HOME"] = str(tmp_path_factory.mktemp("state"))


@pytest.fixture
def fake_cuda() -> Iterator[Shadow]:
    """What operations ask of the fake devices that the test runs on. Fails where one of them went without values."""
    if not fake.active():
        pytest.skip("needs fake CUDA devices: run with --fake-cuda 2 -m gpu")
    from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

    shadow: Any = _get_current_dispatch_mode_stack()[0]  # entered as torch was imported
    shadow.forget()
    yield shadow
    assert not shadow.unfilled


@pytest.fixture(autouse=True)
def _with_values(request: pytest.FixtureRequest) -> None:
    if fake.active() and "gpu" in request.keywords:
        request.getfixturevalue("fake_cuda")


@pytest.fixture
def fake_machine() -> Callable[..., dict[str, str]]:
    """The environment variables of a new process that sees fake devices; see `tests.helpers.fake_cuda.environment`."""
    if not fake.active():  # where there is a GPU, its minutes are for what only a GPU can say
        pytest.skip("needs fake CUDA devices: run with --fake-cuda 2 -m gpu")
    return fake.environment


@pytest.fixture
def one_thread() -> Iterator[None]:
    """For trainings in the tests' own process: as a worker has it, and quicker on a busy machine."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def benchmark_data() -> Path:
    """The folder of published tables; see CONTRIBUTING.md. Tests that need it are skipped without."""
    folder = Path(os.environ.get("NASTOOL_TEST_DATA", ROOT / ".." / "shared" / "data")).resolve()
    if not folder.is_dir():
        pytest.skip(f"no benchmark tables in {folder}: set NASTOOL_TEST_DATA")
    return folder


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """Run a command in this process and a scratch folder. stdin: text, or bytes for a strict UTF-8 stream."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, stdin: str | bytes = "") -> Outcome:
        data = stdin if isinstance(stdin, bytes) else stdin.encode(errors="surrogatepass")
        monkeypatch.setattr(sys, "argv", ["nastool", *arguments])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), encoding="utf-8"))
        capsys.readouterr()
        code = cli.run()
        return Outcome(code, *capsys.readouterr())

    return run


@pytest.fixture(scope="session")
def nasbench201_table(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The file of a table of all of NAS-Bench-201 with made-up accuracies."""
    from nastool.spaces.nasbench201 import NasBench201

    archs = np.array([arch.choices for arch in NasBench201().members()], dtype=np.uint8)
    path = tmp_path_factory.mktemp("table") / "t.npz"
    np.savez(path, allow_pickle=False, arch=archs, val=np.random.default_rng(0).random(len(archs)))
    return str(path)


@pytest.fixture(scope="session")
def macro_table(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The file of a table of all of NAS-Bench-Macro with made-up accuracies."""
    from nastool.spaces.nasbench_macro import NasBenchMacro

    archs = np.array([arch.choices for arch in NasBenchMacro().members()], dtype=np.uint8)
    path = tmp_path_factory.mktemp("table") / "macro.npz"
    val, test = np.random.default_rng(0).random((2, len(archs))) * 100
    np.savez(path, allow_pickle=False, arch=archs, val=val, test=test)
    return str(path)


@pytest.fixture
def search(run: Run, nasbench201_table: str) -> Run:
    """`run` of a search of 5 trials in the table, in the run folder "out"."""
    command = ["search", "--evaluator", "table", "-E", f"file={nasbench201_table}", "-n", "5", "--out", "out"]
    return lambda *more: run(*changed(command, *more))


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, nasbench201_table: str) -> Path:
    """The folder of a finished search of 5 trials in the table, to be copied."""
    folder = tmp_path_factory.mktemp("run")
    command = ["search", "--evaluator", "table", "-E", f"file={nasbench201_table}", "-n", "5", "--out", "a"]
    assert in_this_process(folder, *command).code == 0
    return folder / "a"


@pytest.fixture(scope="session")
def trained_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a search of one small network, to be copied."""
    folder = tmp_path_factory.mktemp("trained")
    flags = "-s random --data digits --epochs 1 --scale channels=2,cells=1 -E train_size=50 --device cpu --trials 1"
    outcome = in_this_process(folder, "search", *flags.split(), "--out", "a", trains=True)
    assert outcome.code == 0, outcome
    return folder / "a"


@pytest.fixture
def a(trained_run: Path, tmp_path: Path) -> Path:
    """A copy of that run to spoil."""
    shutil.copytree(trained_run, tmp_path / "a")
    return tmp_path / "a"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A scratch folder, entered."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def inline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainings in the tests' own process."""
    from nastool.evaluators.supernet import Supernet
    from nastool.evaluators.train import Train

    for evaluator in (Train, Supernet):
        monkeypatch.setattr(evaluator, "inline", True)
