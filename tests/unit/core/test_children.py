"""Child processes: whose they are, what they find, and what becomes of them."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NoReturn

import pytest

from nastool.core import children
from nastool.core.errors import InputError
from nastool.core.processes import WorkerProcess
from nastool.training.evaluator import TrainingEvaluator
from tests.helpers.obedient import obey
from tests.system.test_resume import wait_for

pytestmark = pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
MODULES = ("tests.helpers.obedient",)


class Started(WorkerProcess):
    """A process that answers."""

    def __init__(self, modules: Sequence[str] | None = MODULES, **environment: str) -> None:
        super().__init__(
            obey, ("os", "sys", "signal"), name="nastool-worker-7", environment=environment, modules=modules
        )

    def __call__(self, expression: str) -> Any:
        self.connection.send(expression)
        return self.connection.recv()

    def died(self, expression: str) -> str:
        """How, of this."""
        self.connection.send(expression)
        with pytest.raises(EOFError):
            self.connection.recv()
        return self.how_it_died()


Start = Callable[..., Started]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts a process, which is ended after the test."""
    with ExitStack() as stack:

        def started(*args: Any, **environment: str) -> Started:
            process = Started(*args, **environment)
            stack.callback(process.kill)
            return process

        yield started


def server() -> int | None:
    """Of the server, its process."""
    return None if children._server is None else children._server._child.pid


@pytest.mark.parametrize("modules", [MODULES, None], ids=["forked", "fresh"])
class TestEach:
    def test_is_a_child_of_this_process(self, modules: Sequence[str] | None, start: Start) -> None:
        process = start(modules)
        assert process("os.getppid(), os.getpid()") == (os.getpid(), process.pid)
        assert process("signal.getsignal(signal.SIGINT) == signal.SIG_IGN")
        assert process("signal.getsignal(signal.SIGTERM) == signal.SIG_DFL")
        assert process("list(signal.pthread_sigmask(signal.SIG_BLOCK, []))") == []
        assert process("open('/proc/self/comm').read()") == "nastool-worker-\n"

    @pytest.mark.parametrize(
        "expression, how",
        [
            ("os._exit(3)", "exit code 3"),
            ("sys.exit(4)", "exit code 4"),
            ("os.kill(os.getpid(), 11)", "signal 11 (Segmentation fault)"),
            ("os.kill(os.getpid(), 9)", "signal 9 (Killed), perhaps for want of memory"),
        ],
    )
    def test_says_how_it_died(
        self, modules: Sequence[str] | None, expression: str, how: str, start: Start, capfd: pytest.CaptureFixture[str]
    ) -> None:
        assert start(modules).died(expression) == how
        assert capfd.readouterr() == ("", "")

    def test_says_what_it_raised(
        self, modules: Sequence[str] | None, start: Start, capfd: pytest.CaptureFixture[str]
    ) -> None:
        """On the stderr that this process has now, not on the server's."""
        process = start(modules)
        assert process("print('printed')") is None
        assert process.died("1 / 0") == "exit code 1"
        out, err = capfd.readouterr()
        assert (out, err.splitlines()[0], err.splitlines()[-1]) == (
            "",
            "printed",
            "ZeroDivisionError: division by zero",
        )

    def test_finds_stdin_empty_and_nothing_else_open(self, modules: Sequence[str] | None, start: Start) -> None:
        process = start(modules)
        assert process("os.readlink('/proc/self/fd/0'), sys.stdin.read()") == (os.devnull, "")
        opened = sorted(Path(f"/proc/{process.pid}/fd").iterdir(), key=lambda path: int(path.name))
        targets = [os.readlink(path) for path in opened[3:]]
        assert len(set(targets)) == 1 and len(targets) == 2, "its connection, and that which watches it"

    def test_is_stopped(self, modules: Sequence[str] | None, start: Start) -> None:
        process = start(modules)
        assert process("1") == 1 and not process.stopped
        os.kill(process.pid, signal.SIGSTOP)
        wait_for(lambda: process.stopped)

    def test_ends_when_nobody_listens(self, modules: Sequence[str] | None, start: Start) -> None:
        """Also where no kernel watches, and whatever it is busy with."""
        process = start(modules)
        process.connection.send("signal.pause()")
        process.connection.close()
        process._child.wait(60)
        assert process.how_it_died() == "exit code 1"

    def test_finds_what_is_so_now(
        self, modules: Sequence[str] | None, start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        start(modules)
        monkeypatch.setenv("NASTOOL_TEST_EARLY", "1")
        monkeypatch.delenv("NASTOOL_WORKER_THREADS", raising=False)
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.setattr(sys, "argv", ["a", "--debug"])
        monkeypatch.chdir(tmp_path)
        process = start(modules, CUDA_VISIBLE_DEVICES="5")
        names = ("NASTOOL_TEST_EARLY", "CUDA_VISIBLE_DEVICES", "NASTOOL_WORKER_THREADS")
        assert process(f"[os.environ.get(name) for name in {names}]") == ["1", "5", None]
        assert process("sys.path[0], sys.argv, os.getcwd()") == (str(tmp_path), sys.argv, str(tmp_path))
        before = os.umask(0o027)
        try:
            assert start(modules)("os.umask(0)") == 0o027
        finally:
            os.umask(before)


class TestForked:
    def test_one_server_serves_all(self, start: Start) -> None:
        start()
        first = server()
        assert first is not None
        values = ("0", "1", "")
        assert [start(CUDA_VISIBLE_DEVICES=each)("os.environ['CUDA_VISIBLE_DEVICES']") for each in values] == [*values]
        assert server() == first
        assert start(None)("1") == 1 and server() == first, "a fresh one has none"

    def test_another_environment_takes_another(self, start: Start) -> None:
        """Which ends the old one, whose processes go on."""
        first = start(NASTOOL_TEST_EARLY="1")
        old = server()
        second = start(NASTOOL_TEST_EARLY="2")
        assert server() != old and not Path(f"/proc/{old}").exists()
        assert [each("os.environ['NASTOOL_TEST_EARLY']") for each in (first, second)] == ["1", "2"]

    def test_a_server_that_was_killed_takes_nothing_with_it(self, start: Start) -> None:
        first, killed = start(), server()
        assert killed is not None and first("1") == 1
        os.kill(killed, signal.SIGKILL)
        assert start()("2") == 2 and server() != killed
        assert first("3") == 3
        assert first.died("os.kill(os.getpid(), 15)") == "signal 15 (Terminated)"

    def test_a_server_that_stands_still_is_replaced(self, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
        start()
        stopped = server()
        assert stopped is not None
        os.kill(stopped, signal.SIGSTOP)
        monkeypatch.setattr(children, "SERVER_SECONDS", 0.5)  # if the next takes longer to begin, there is none
        assert start()("1") == 1
        assert not Path(f"/proc/{stopped}").exists()

    def test_a_plugin_is_the_one_of_now(self, start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.syspath_prepend(tmp_path)
        start()
        first, plugin = server(), tmp_path / "edited_plugin.py"
        for value in (1, 10, 100):  # of other sizes, so that Python sees the change within a second, too
            plugin.write_text(f"value = {value}\n")
            assert start()("__import__('edited_plugin').value") == value
        assert server() == first

    def test_random_numbers_differ(self, start: Start) -> None:
        """As with processes that are begun anew: a plugin may draw from generators that nobody has seeded."""
        modules = (*MODULES, "numpy.random")
        draw = "__import__('numpy').random.random(), __import__('random').random()"
        drawn = [start(modules)(draw) for _ in range(3)]
        assert len({each for both in drawn for each in both}) == 6

    def test_what_trainings_need_is_there_and_no_device_is_in_use(self, start: Start) -> None:
        process = start(("nastool.worker", "numpy.random", *TrainingEvaluator.imports))
        assert process("'torch' in sys.modules and sys.modules['torch'].cuda.is_initialized()") is False
        assert process("os.getppid()") == os.getpid() != server()
        assert children._server is not None and children._server._able

    @pytest.mark.parametrize(
        "line",
        [
            "import threading; threading.Thread(target=threading.Event().wait, daemon=True).start()",
            "1 / 0",
            "import _no",
        ],
        ids=["thread", "error", "missing"],
    )
    def test_what_cannot_be_imported_before_a_fork_is_not(
        self, line: str, start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Then each is a fresh process."""
        (tmp_path / "odd_module.py").write_text(line)
        monkeypatch.syspath_prepend(tmp_path)
        for _ in range(2):
            process = start(("odd_module",))
            assert process("os.getppid(), 'odd_module' in sys.modules") == (os.getpid(), False)

    def test_where_it_cannot_fork(self, start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """For want of memory, say, at the first or the second of its forks for a worker: that is a fresh process."""
        code = """
            import os
            real, calls = os.fork, []
            def fork():  # the first is to see whether it can; in the second, the one in between forks
                calls.append(None)
                if len(calls) >= 3:
                    raise OSError(12, "")
                return real()
            os.fork = fork
        """
        (tmp_path / "full_table.py").write_text(textwrap.dedent(code))
        monkeypatch.syspath_prepend(tmp_path)
        processes = [start((*MODULES, "full_table")) for _ in range(3)]
        assert [each("os.getppid(), 'full_table' in sys.modules") for each in processes] == [(os.getpid(), False)] * 3
        assert children._server is not None and children._server._able

    def test_no_further_process(self, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
        """One line, whether there is a server or not; another time there is room."""
        start()
        opened = os.listdir("/proc/self/fd")

        def full(*_: object, **__: object) -> NoReturn:
            raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

        for modules in (("json",), None):
            with monkeypatch.context() as patch:
                patch.setattr(subprocess, "Popen", full)
                with pytest.raises(InputError, match=r"cannot start one more worker \(Resource temporarily unavai"):
                    Started(modules)
        assert len(os.listdir("/proc/self/fd")) == len(opened) - 1, "but for the server's, which was ended"
        assert start(("json",))("1") == 1

    def test_where_it_is_not_possible(self, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
        """As on other systems than Linux."""
        monkeypatch.setattr(children, "_SUBREAPER", 0x7FFF)
        children._end_server()
        assert start()("os.getppid()") == os.getpid()


SCRIPT = """
import os, sys
from nastool.core import children
from nastool.core.processes import WorkerProcess
from nastool.training.evaluator import TrainingEvaluator
from tests.helpers.obedient import obey

def ask(expression):
    process = WorkerProcess(obey, ("os",), name="nastool-worker-0", environment={}, modules=("tests.helpers.obedient",))
    process.connection.send(expression)
    answer = process.connection.recv()
    process.kill()
    return answer

assert ask("os.getppid()") == os.getpid()
server = children._server._child.pid
if (pid := os.fork()) == 0:
    code = 1
    try:
        code = 0 if ask("os.getppid()") == os.getpid() != children._server._child.pid != server else 2
    finally:
        children._end_server()
        os._exit(code)
assert os.waitpid(pid, 0)[1] == 0
assert ask("os.getppid()") == os.getpid() and children._server._child.pid == server
print(server)
"""


def test_a_forked_coordinator_has_a_server_of_its_own_and_none_is_left(tmp_path: Path) -> None:
    """The caller's script, which workers do not import, may fork itself."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    path = os.pathsep.join(filter(None, sys.path))
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONWARNINGS": "error"}
    result = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, env=environment)
    assert (result.returncode, result.stderr) == (0, "")
    assert not Path(f"/proc/{int(result.stdout)}").exists()


@pytest.mark.parametrize("said", [0, 1, 2, 3])
def test_a_process_whose_starter_ends_before_it_has_said_all_says_nothing(said: int) -> None:
    setting = children._Setting(os.getpid(), "nastool-worker-7", [""], os.getcwd(), {})
    mine, theirs = multiprocessing.Pipe()
    for message in [sys.path, children._work, setting][:said]:
        mine.send(message)
    command = [sys.executable, "-c", children.BEGIN]
    with subprocess.Popen(command, stdin=theirs.fileno(), stderr=subprocess.PIPE) as process:
        theirs.close()
        mine.close()
        _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (1, b"")
