"""`nastool report --live`: for this machine alone, read-only, and as new as the run."""

from __future__ import annotations

import http.client
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from html import unescape
from pathlib import Path

import pytest

from nastool.analysis.report.server import Pages, Server, version
from nastool.core.errors import InputError
from nastool.engine.config import RunFolder
from tests.helpers import made_runs
from tests.unit.analysis.report.test_report import check


class Client:
    """Requests to a server in this process."""

    def __init__(self, server: Server) -> None:
        self.server = server

    def __call__(
        self, path: str = "/", method: str = "GET", host: str | None = None, body: bytes | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        """host: what the header says; "" for a request without one."""
        connection = http.client.HTTPConnection("127.0.0.1", self.server.server_port, timeout=20)
        connection.putrequest(method, path, skip_host=True)
        if host != "":
            connection.putheader("Host", host or f"127.0.0.1:{self.server.server_port}")
        if body is not None:
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
        answer = connection.getresponse()
        found = answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
        connection.close()
        return found

    def news(self) -> dict[str, str]:
        status, _, body = self("/version")
        assert status == 200
        found: dict[str, str] = json.loads(body)
        return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return made_runs.folder(tmp_path / "run", [0.5, 0.6])


@pytest.fixture
def client(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    monkeypatch.setattr("nastool.analysis.report.server.REST", 0.0)
    with Server(Pages([folder]), 0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield Client(server)
        server.shutdown()
        thread.join()


def test_the_page(client: Client) -> None:
    status, headers, body = client()
    assert status == 200
    assert headers["content-type"] == "text/html; charset=utf-8"
    assert int(headers["content-length"]) == len(body)
    text = body.decode()
    assert "trial 1" in check(text).text
    assert f'data-version="{client.news()["version"]}"' in text
    assert "connect-src 'self'" in unescape(text)


def test_headers_say_that_nobody_else_may_use_it(client: Client) -> None:
    for path in ("/", "/version", "/nothing"):
        _, headers, _ = client(path)
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy
        assert re.search(r"script-src 'sha256-[^']+'(;|$)", policy)
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cache-control"] == "no-store"
        assert "python" not in headers["server"].lower()
        assert "access-control-allow-origin" not in headers


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost", "[::1]"])
def test_names_of_this_machine(client: Client, name: str) -> None:
    assert client(host=f"{name}:{client.server.server_port}")[0] == 200


@pytest.mark.parametrize(
    "host", ["", "evil.example", "127.0.0.1", "127.0.0.1:1", "127.0.0.1.evil.example:{port}", "a b"]
)
def test_other_names_are_refused(client: Client, host: str) -> None:
    """A foreign name that resolves to this machine must not read the page (DNS rebinding)."""
    for path in ("/", "/version"):
        status, _, body = client(path, host=host.format(port=client.server.server_port))
        assert status == 403
        assert b"trial" not in body and b"version" not in body


def test_it_is_only_read(client: Client) -> None:
    for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"):
        status, headers, _ = client(method=method, body=b"x")
        assert (status, headers["allow"]) == (405, "GET, HEAD"), method
    status, headers, body = client(method="HEAD")
    assert (status, body) == (200, b"")
    assert int(headers["content-length"]) > 1000


@pytest.mark.parametrize(
    "path", ["/run.db", "/../run.db", "//etc/passwd", "/..%2f..%2fetc/passwd", "/?x", "/version/", "http://evil/", "*"]
)
def test_no_path_names_a_file(client: Client, path: str) -> None:
    status, _, body = client(path)
    assert status == 404
    assert b"root:" not in body and b"SQLite" not in body


def test_it_listens_on_this_machine_alone(client: Client) -> None:
    assert client.server.server_address[0] == "127.0.0.1"


def test_a_new_trial_is_news(client: Client, folder: Path) -> None:
    before = client.news()["version"]
    assert client.news()["version"] == before
    client()
    assert client.news()["version"] == before  # to read it changes nothing
    made_runs.add(folder, [0.9])
    after = client.news()["version"]
    assert after != before
    text = client()[2].decode()
    assert "trial 2" in check(text).text
    assert f'data-version="{after}"' in text
    assert client.news() == {"version": after}


def test_a_run_that_is_moved_and_comes_back(client: Client, folder: Path) -> None:
    before = client()[2]
    shutil.move(folder, folder.with_name("elsewhere"))
    assert client()[2] == before  # what was known last
    assert "no run folder" in client.news()["problem"]
    shutil.move(folder.with_name("elsewhere"), folder)
    client()
    assert "problem" not in client.news()


def test_versions_know_who_is_at_work(folder: Path) -> None:
    idle = version([folder])
    with RunFolder(folder).locked():
        assert version([folder]) != idle
    assert version([folder]) == idle
    assert version([folder, folder]) != idle


def test_a_costly_page_is_not_made_all_the_time(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nastool.analysis.report.server.REST", 1000.0)
    pages = Pages([folder])
    before = pages.news()
    made_runs.add(folder, [0.9])
    assert pages.news() == before  # nobody is told of what is not to be had yet
    text = pages.newest()
    monkeypatch.setattr(pages, "_next", 0.0)
    assert pages.news() != before
    assert pages.newest() != text


def test_runs_that_have_nothing_yet(tmp_path: Path) -> None:
    for name, values in (("empty", []), ("failed", ["no", "no"])):
        check(Pages([made_runs.folder(tmp_path / name, values)]).newest())
    with pytest.raises(InputError, match="no run folder"):
        Pages([tmp_path / "nowhere"])


def test_the_command_ends_with_ctrl_c(folder: Path) -> None:
    command = [sys.executable, "-m", "nastool", "report", str(folder), "--live"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    url = process.stdout.readline().strip()
    try:
        match = re.fullmatch(r"http://127\.0\.0\.1:(\d+)/", url)
        assert match is not None, url
        connection = http.client.HTTPConnection("127.0.0.1", int(match[1]), timeout=20)
        connection.request("GET", "/version")
        assert "version" in json.loads(connection.getresponse().read())
        connection.close()
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
    finally:
        process.kill()
    assert process.returncode == 0
    assert out == ""
    assert [line for line in err.splitlines() if line] == [
        "this page follows the runs; Ctrl-C ends it",
        "no longer served",
    ]


def test_a_port_that_is_taken(client: Client, folder: Path) -> None:
    command = [sys.executable, "-m", "nastool", "report", str(folder), "--live"]
    command += ["--port", str(client.server.server_port)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert f"--port {client.server.server_port}" in line and "give another" in line


@pytest.fixture
def ask(tmp_path: Path) -> Iterator[Callable[[bytes], bytes]]:
    """Sends bytes to a served page, and returns all that comes back."""
    with Server(Pages([made_runs.folder(tmp_path / "run", [0.5])]), 0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()

        def ask(data: bytes) -> bytes:
            host = f"127.0.0.1:{server.server_port}".encode()
            with socket.create_connection(("127.0.0.1", server.server_port), timeout=10) as connection:
                connection.sendall(data.replace(b"HOST", host))
                connection.shutdown(socket.SHUT_WR)
                return b"".join(iter(lambda: connection.recv(65536), b""))

        yield ask
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"<script>alert(1)</script> / HTTP/1.1\r\nHost: HOST\r\n\r\n", b" 501 "),
        (b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nHost: HOST\r\n\r\n", b" 414 "),
        (b"GET / HTTP/1.1\r\nX: " + b"a" * 70_000 + b"\r\nHost: HOST\r\n\r\n", b" 431 "),
    ],
)
def test_requests_that_are_none(ask: Callable[[bytes], bytes], data: bytes, status: bytes) -> None:
    """Not even they are answered without the headers, or with what they said."""
    answer = ask(data)
    assert status in answer.splitlines()[0]
    assert b"Content-Security-Policy: default-src 'none'" in answer
    assert b"script>" not in answer


def test_what_a_request_carries_is_no_request(ask: Callable[[bytes], bytes]) -> None:
    inner = b"GET /version HTTP/1.1\r\nHost: HOST\r\n\r\n"
    answer = ask(b"GET /nothing HTTP/1.1\r\nHost: HOST\r\nContent-Length: 60\r\n\r\n" + inner)
    assert answer.count(b"HTTP/1.1 ") == 1
