"""The way out of a container that installs packages: what it gives, and to whom it tells a password."""

from __future__ import annotations

import socketserver
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from airflow_customjob.packaging.gate import Indexes, Server

LOGIN, TOKEN = "trainer:pa55", "Basic dHJhaW5lcjpwYTU1"
PAGE = """<!doctype html>
<a href="{files}/dep-1.0.tar.gz#sha256=00" data-requires-python="&gt;=3.8">dep-1.0.tar.gz</a>
<A data-core-metadata="true" HREF='/packages/dep-1.0-py3-none-any.whl?sign=a&amp;b=c'>dep</A>
<a href="../../up/dep-2.0.zip">dep</a><a href="file:///etc/shadow">dep</a>"""
Asked = list[tuple[str, str | None]]


@contextmanager
def serving(pages: Callable[[str], tuple[int, str, str]]) -> Iterator[tuple[str, Asked]]:
    """:param pages: status, text and Location by path."""
    asked: Asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append((self.path, self.headers["Authorization"]))
            status, text, location = pages(self.path)
            self.send_response(status)
            if location:
                self.send_header("Location", location)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()


@contextmanager
def gate(*indexes: dict[str, str]) -> Iterator[Callable[[str], str]]:
    with Server(Indexes(list(indexes), None), 0) as server:
        threading.Thread(target=server.serve_forever).start()

        def get(path: str) -> str:
            with urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}{path}") as answer:
                return str(answer.read().decode())

        yield get
        server.shutdown()


def test_links_lead_through_the_gate_and_a_password_to_its_own_index_only() -> None:
    with ExitStack() as stack:
        files, asked_for_files = stack.enter_context(serving(lambda path: (200, f"bytes of {path}", "")))

        def pages(path: str) -> tuple[int, str, str]:
            if path == "/simple/dep/":
                return 200, PAGE.format(files=files), ""
            if path.startswith("/packages/"):
                return 302, "", f"{files}/stored?signed"
            return 404, "", ""

        url, asked = stack.enter_context(serving(pages))
        get = stack.enter_context(gate({"url": f"{url}/simple", "login": LOGIN}))
        assert get("/0/dep/").splitlines()[1:] == [
            '<a href="/file/0/dep-1.0.tar.gz#sha256=00" data-requires-python="&gt;=3.8">dep-1.0.tar.gz</a>',
            "<A data-core-metadata=\"true\" HREF='/file/1/dep-1.0-py3-none-any.whl'>dep</A>",
            '<a href="/file/2/dep-2.0.zip">dep</a><a href="">dep</a>',
        ]
        assert get("/file/0/dep-1.0.tar.gz") == "bytes of /dep-1.0.tar.gz"
        assert get("/file/0/dep-1.0.tar.gz.metadata") == "bytes of /dep-1.0.tar.gz.metadata"
        assert get("/file/1/dep-1.0-py3-none-any.whl") == "bytes of /stored?signed"
        assert asked == [("/simple/dep/", TOKEN), ("/packages/dep-1.0-py3-none-any.whl?sign=a&b=c", TOKEN)]
        assert [authorization for _, authorization in asked_for_files] == [None] * 3


@pytest.mark.parametrize(
    "path", ["/", "/0/", "/0/..", "/0/dep/../../admin", "/0/dep/admin", "/1/dep/", "/file/0/x", "/0/a%2f.."]
)
def test_nothing_else_can_be_asked_for(path: str) -> None:
    with serving(lambda path: (200, "secret", "")) as (url, asked), gate({"url": url, "login": LOGIN}) as get:
        with pytest.raises(urllib.error.HTTPError) as refused:
            get(path)
        assert refused.value.code == 404
        assert asked == []


def test_what_is_no_answer_of_a_web_server_is_told_without_quoting_it(capsys: pytest.CaptureFixture[str]) -> None:
    """Python's words quote what they stumbled over: a password, where one was taken for a port."""

    class Nonsense(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(10_000)
            self.request.sendall(b"s3cret nonsense\r\n\r\n")

    with socketserver.TCPServer(("127.0.0.1", 0), Nonsense) as server:
        threading.Thread(target=server.serve_forever).start()
        url = f"http://127.0.0.1:{server.server_address[1]}"
        with gate({"url": url, "login": LOGIN}) as get, pytest.raises(urllib.error.HTTPError) as refused:
            get("/0/dep/")
        server.shutdown()
    assert refused.value.code == 502
    assert capsys.readouterr().out == f"{url}/dep/: BadStatusLine\n"


def test_a_refusal_is_told_without_what_a_link_is_signed_with(capsys: pytest.CaptureFixture[str]) -> None:
    pages = {"/dep/": (200, '<a href="/f/dep.whl?token=s3cret">dep</a>', ""), "/f/dep.whl?token=s3cret": (401, "", "")}
    with serving(lambda path: pages[path]) as (url, _), gate({"url": url, "login": LOGIN}) as get:
        get("/0/dep/")
        with pytest.raises(urllib.error.HTTPError) as refused:
            get("/file/0/dep.whl")
        assert refused.value.code == 403, "at 401 pip asks for a password"
        assert capsys.readouterr().out == f"{url}/f/dep.whl: HTTP 401\n"
