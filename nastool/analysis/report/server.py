"""A report that follows its runs: served to this machine alone, read-only."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

from nastool.analysis import pages, report
from nastool.core.errors import NastoolError, one_line
from nastool.engine.config import RunFolder
from nastool.engine.study import Study

ADDRESS = "127.0.0.1"
REST = 1.0
"""Between two new pages lies at least this many times what the last one took, so that a search keeps the processor."""


def version(folders: Sequence[Path]) -> str:
    """Changes when a run does. Looks at the files alone, so it costs next to nothing."""
    found = []
    for folder in folders:
        for name in ("run.db", "run.db-wal"):
            try:
                status = (folder / name).stat()
            except OSError:
                found.append("-")
                continue
            # An empty write-ahead log is what a reader may leave; it says nothing.
            found.append(f"{status.st_size}.{status.st_mtime_ns}" if status.st_size else "-")
        found.append("busy" if RunFolder(folder).busy() else "idle")
    return " ".join(found)


class Pages:
    """The newest page of some runs. Requests come from several threads; one page is made at a time."""

    def __init__(self, folders: Sequence[Path], read: Callable[[Path], Study] = Study.read) -> None:
        """InputError: one of them is no run. read: how a folder is read."""
        self.folders = list(folders)
        self.problem: str | None = None
        self._read = read
        self._lock = threading.Lock()
        self._version = ""
        self._text = ""
        self._next = 0.0
        self._make()

    def news(self) -> dict[str, str]:
        """Answer of /version: the version of the page that one would get now, and what is wrong, if anything."""
        with self._lock:
            current = version(self.folders)
            found = {"version": self._version if time.monotonic() < self._next else current}
            if self.problem is not None and current == self._version:
                found["problem"] = self.problem
            return found

    def newest(self) -> str:
        """The page. While a run cannot be read, because it was moved, say, the last one that could be made."""
        with self._lock:
            if version(self.folders) != self._version and time.monotonic() >= self._next:
                try:
                    self._make()
                except NastoolError as error:
                    self.problem = one_line(error)
                    self._version = version(self.folders)
            return self._text

    def _make(self) -> None:
        started = time.monotonic()
        current = version(self.folders)  # what changes while it is read is news for the next page
        studies = [self._read(folder) for folder in self.folders]
        self._text = report.html(studies, current)
        self._version, self.problem = current, None
        self._next = time.monotonic() + REST * (time.monotonic() - started)


class Server(ThreadingHTTPServer):
    """Serves pages on this machine. port: 0 chooses a free one; OSError: it is taken."""

    daemon_threads = True

    def __init__(self, pages: Pages, port: int) -> None:
        self.pages = pages
        super().__init__((ADDRESS, port), Handler)
        names = (ADDRESS, "localhost", "[::1]")
        port = self.server_port
        self.hosts = {f"{name}:{port}" for name in names} | (set(names) if port == 80 else set())

    @property
    def url(self) -> str:
        return f"http://{ADDRESS}:{self.server_port}/"

    def handle_error(self, request: object, client_address: object) -> None:
        """A browser that went away is no news."""


class Handler(BaseHTTPRequestHandler):
    """GET and HEAD of "/" and "/version"; nothing in a request names a file."""

    server: Server
    server_version = "nastool"
    sys_version = ""
    timeout = 30
    protocol_version = "HTTP/1.1"
    HEADERS: ClassVar = {
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
        "Referrer-Policy": "no-referrer",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cache-Control": "no-store",
    }

    def do_GET(self) -> None:
        if "Content-Length" in self.headers or "Transfer-Encoding" in self.headers:
            self.close_connection = True  # what the request carries is not read, and is no request of its own
        # Another site's name that leads here would make this page part of that site (DNS rebinding).
        if self.headers.get_all("Host", []) not in ([host] for host in self.server.hosts):
            self._answer(403, "text/plain", "this page is for this machine alone: use the address that was printed\n")
        elif self.path == "/":
            self._answer(200, "text/html", self.server.pages.newest())
        elif self.path == "/version":
            self._answer(200, "application/json", json.dumps(self.server.pages.news()))
        else:
            self._answer(404, "text/plain", "there is nothing here but /\n")

    do_HEAD = do_GET

    def _refuse(self) -> None:
        self.close_connection = True  # what the request carries is not read
        self._answer(405, "text/plain", "this page is only read\n", Allow="GET, HEAD")

    do_POST = do_PUT = do_DELETE = do_PATCH = do_OPTIONS = do_TRACE = do_CONNECT = _refuse

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer what is no request at all, or too long, with nothing that the request said."""
        self.close_connection = True
        self._answer(code, "text/plain", "this is no request for this page\n")

    def _answer(self, status: int, kind: str, text: str, **more: str) -> None:
        body = text.encode()
        self.send_response(status)
        policy = f"{pages.policy(live=True)}; frame-ancestors 'none'"
        known = {"Content-Type": f"{kind}; charset=utf-8", "Content-Length": str(len(body))}
        for name, value in {**known, "Content-Security-Policy": policy, **self.HEADERS, **more}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Requests are no news either."""
