"""A worker: evaluates what comes through a pipe. `python -m nastool.worker` is one on stdin and stdout."""

from __future__ import annotations

import faulthandler
import os
import select
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any, Protocol

from nastool.core import registry
from nastool.core.children import settle_in
from nastool.core.errors import InputError, OutOfMemory, fault_of, one_line
from nastool.core.evaluator import Threaded
from nastool.core.streams import settle_streams
from nastool.engine.executors.jobs import Abandoned, Job, described, perform, reported
from nastool.engine.executors.slot import Abandon, Beat, Body, Broken, Ready
from nastool.nets import devices


class Pipe(Protocol):
    """One end of a connection that carries Python objects."""

    def poll(self) -> bool: ...
    def recv(self) -> Any: ...
    def send(self, obj: Any, /) -> None: ...


class Line:
    """A worker's end of the pipe, for all its threads; one of them says regularly that Python runs while it works."""

    def __init__(self, connection: Pipe, seconds: float) -> None:
        self._connection = connection
        self._seconds = seconds
        self._lock = threading.Lock()
        self._at_work = True
        threading.Thread(target=self._beat, daemon=True).start()

    def send(self, message: object) -> None:
        """A message while at work."""
        with self._lock:
            self._connection.send(message)

    def end(self, message: object) -> None:
        """The last message of this work: nothing comes after it."""
        with self._lock:
            self._at_work = False
            self._connection.send(message)

    def next(self) -> Job:
        """What to do next. EOFError: nothing."""
        while isinstance(job := self._connection.recv(), Abandon):
            pass  # it had finished meanwhile
        assert isinstance(job, Job)
        with self._lock:
            self._at_work = True
        return job

    def abandoned(self, job: Job) -> bool:
        """Whether the job at work has been abandoned."""
        return self._connection.poll() and self._connection.recv() == Abandon(job.trial_id)

    def _beat(self) -> None:
        while True:
            time.sleep(self._seconds)
            with self._lock:
                if self._at_work:
                    try:
                        self._connection.send(Beat(time.process_time()))
                    except OSError:
                        return  # nobody listens any more


def serve(connection: Pipe) -> None:
    """Evaluate what comes through the pipe until it closes: the body of a worker process, once it has settled in.

    Args:
        connection: To the executor; it begins with a `Body`.
    """
    try:
        body: Body = connection.recv()
    except EOFError:
        return
    if body.log is not None:
        with suppress(OSError):  # a full disk, say; then it goes where the coordinator's goes
            body.log.parent.mkdir(parents=True, exist_ok=True)
            target = os.open(body.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(target, 2)
            os.close(target)
    settle_streams()
    line = Line(connection, body.beat)
    faulthandler.enable()
    try:
        evaluator = body.spec.build()
        evaluator.prepare()
        most = os.environ.get(devices.MOST_THREADS)
        facts = described(evaluator)
        if most is not None and isinstance(evaluator, Threaded):
            facts |= evaluator.choose_threads(int(most))
        ready = Ready(facts)
    except devices.Hidden as error:  # it was there when the coordinator looked
        line.end(Broken(one_line(error)))
        return
    except InputError as error:
        line.end(error)
        return
    except Exception as error:
        fault = fault_of(error)
        if fault is None and (who := registry.blamed(error)):
            line.end(InputError(f"{who} raised {one_line(error)}"))
        if fault is None:
            raise
        _say(one_line(error))
        more = "use fewer workers, or free some memory"
        line.end(Broken(one_line(error)) if fault == "device" else OutOfMemory(f"{one_line(error)}; {more}"))
        return
    line.end(ready)
    while True:
        try:
            job = line.next()
        except EOFError:
            return

        def report(step: int, metrics: Mapping[str, float], job: Job = job) -> None:
            line.send(reported(job, step, metrics))
            if line.abandoned(job):
                raise Abandoned

        result = perform(evaluator, job, report)
        if result.error:
            if body.log is not None and result.log:  # elsewhere a person reads it, to whom the error is enough
                _say(result.log)
            _say(f"trial {job.trial_id}: {result.error}")
        line.end(result)


def _say(text: str) -> None:
    """A line for the log, if there is room for it."""
    with suppress(OSError):
        print(text, file=sys.stderr, flush=True)


class _Duplex:
    """Two one-way connections as one."""

    def __init__(self, incoming: Connection, outgoing: Connection) -> None:
        self.poll, self.recv, self.send = incoming.poll, incoming.recv, outgoing.send


def main() -> None:
    """Serve an executor at the other end of stdin and stdout, such as `ssh HOST python -m nastool.worker`."""
    incoming, outgoing = os.dup(0), os.dup(1)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)

    def watch() -> None:
        poll = select.poll()
        poll.register(incoming, 0)
        poll.poll()  # until the other end is closed
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    settle_in()
    serve(_Duplex(Connection(incoming, writable=False), Connection(outgoing, readable=False)))


if __name__ == "__main__":
    main()
