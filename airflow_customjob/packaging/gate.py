"""The way out of a container that installs packages: a script for the executor image's own Python, 3.7 or later, and nothing else.

``python3 -I gate.py``, in a folder with ``gate.json``, in the network namespace that the installing container shares. It serves the
package indexes at 127.0.0.1: it alone knows their passwords. What it gives away is an index's page of a project, and the files
that such a page has named. As root with NET_ADMIN it first closes the way to the cloud's metadata, where it is told to.
"""

from __future__ import annotations

import base64
import fcntl
import html
import http.client
import json
import os
import re
import shutil
import signal
import socket
import ssl
import struct
import sys
import threading
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import quote, unquote, urljoin, urlsplit

PORT = 8099
LINK_LOCAL = ("169.254.0.0", "255.255.0.0")
"""Where clouds answer any process of a machine with its credentials."""
PATIENCE = 60.0
"""Seconds without a byte after which an index has failed."""

_HREF = re.compile(r"""(<a\b[^>]*?\bhref\s*=\s*)(["'])(.*?)\2""", re.IGNORECASE | re.DOTALL)
_PROJECT = re.compile(r"/(\d+)/([A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)/?")
_FILE = re.compile(r"/file/(\d+)/[^/]+?(\.metadata)?")
_PASSED = ("Content-Type", "Content-Length", "Content-Range", "Accept-Ranges", "ETag", "Last-Modified")


def reject_route(network: tuple[str, str]) -> bytes:
    """A ``struct rtentry`` of Linux that makes a network unreachable."""

    def address(text: str) -> bytes:
        return struct.pack("=HH4s8x", socket.AF_INET, 0, socket.inet_aton(text))

    up, reject = 0x0001, 0x0200
    return struct.pack(
        "@L16s16s16sHhLPhPLLH",
        0, address(network[0]), bytes(16), address(network[1]), up | reject, 0, 0, 0, 0, 0, 0, 0, 0,
    )  # fmt: skip


def close(network: tuple[str, str]) -> None:
    add_route = 0x890B
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, add_route, reject_route(network))


class Indexes:
    """What may be asked for, and how it is got.

    :param indexes: ``url`` of each, and ``login`` (``user:password``, or empty).
    :param certificates: a file of authorities to trust beside the image's own.
    """

    def __init__(self, indexes: list[dict[str, str]], certificates: str | None) -> None:
        self._indexes = indexes
        self._files: list[str] = []
        self._numbers: dict[str, int] = {}
        self._lock = threading.Lock()
        context = ssl.create_default_context()
        for path in filter(None, (certificates, _of_pip())):
            context.load_verify_locations(path)
        self._opener = urllib.request.build_opener(
            urllib.request.HTTPSHandler(context=context), _Redirects(self._authorize)
        )

    def url_of(self, path: str) -> str | None:
        """None: nobody may ask for this."""
        project, file = _PROJECT.fullmatch(path), _FILE.fullmatch(path)
        if project and int(project[1]) < len(self._indexes):
            return f"{self._indexes[int(project[1])]['url'].rstrip('/')}/{project[2]}/"
        if file and int(file[1]) < len(self._files):
            return self._files[int(file[1])] + (file[2] or "")
        return None

    def open(self, url: str, headers: dict[str, str]) -> Any:
        request = urllib.request.Request(url, headers=headers)  # noqa: S310 - an index's URL, or http(s) that its page names
        self._authorize(request)
        return self._opener.open(request, timeout=PATIENCE)

    def page(self, text: str, url: str) -> str:
        """A project's page, with links that lead through here.

        :param url: of the page, after redirections.
        """

        def through_here(link: re.Match[str]) -> str:
            target, _, fragment = urljoin(url, html.unescape(link[3])).partition("#")
            if urlsplit(target).scheme not in ("http", "https"):
                return f"{link[1]}{link[2]}{link[2]}"
            name = quote(unquote(target.partition("?")[0].rstrip("/").rpartition("/")[2]))
            here = f"/file/{self._number(target)}/{name}" + (f"#{fragment}" if fragment else "")
            return f"{link[1]}{link[2]}{html.escape(here)}{link[2]}"

        return _HREF.sub(through_here, text)

    def _number(self, url: str) -> int:
        with self._lock:
            if url not in self._numbers:
                self._numbers[url] = len(self._files)
                self._files.append(url)
            return self._numbers[url]

    def _authorize(self, request: urllib.request.Request) -> None:
        """A login goes to its own index only, also where that sends us elsewhere."""
        for index in self._indexes:
            if index["login"] and _origin(index["url"]) == _origin(request.full_url):
                token = base64.b64encode(index["login"].encode()).decode()
                request.add_unredirected_header("Authorization", f"Basic {token}")
                return


class _Redirects(urllib.request.HTTPRedirectHandler):
    def __init__(self, authorize: Any) -> None:
        self._authorize = authorize

    def redirect_request(self, *args: Any) -> urllib.request.Request | None:
        request = super().redirect_request(*args)
        if request is not None:
            self._authorize(request)
        return request


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)


def _of_pip() -> str | None:
    """The authorities that pip brings along: slim images have no others."""
    try:
        from pip._vendor import certifi
    except ImportError:
        return None
    return str(certifi.where())


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, indexes: Indexes, port: int = PORT) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.indexes = indexes


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answered = False
        url = self.server.indexes.url_of(self.path)
        if url is None:
            self._refuse(404, "no index has named this")
            return
        headers = {name: self.headers[name] for name in ("Range", "If-None-Match") if name in self.headers}
        is_page = not self.path.startswith("/file/")
        try:
            with self.server.indexes.open(url, {**headers, "Accept": "text/html" if is_page else "*/*"}) as answer:
                self._page(answer) if is_page else self._file(answer)
        except urllib.error.HTTPError as error:
            self._fail(url, error.code, f"HTTP {error.code}")
        except OSError as error:
            self._fail(url, 502, str(getattr(error, "reason", error)))
        except (ValueError, http.client.HTTPException) as error:  # their words may quote what they stumbled over
            self._fail(url, 502, type(error).__name__)

    def do_HEAD(self) -> None:
        self.do_GET()

    def _page(self, answer: Any) -> None:
        charset = answer.headers.get_content_charset() or "utf-8"
        text = self.server.indexes.page(answer.read().decode(charset, "replace"), answer.geturl())
        self._answer(200, {"Content-Type": "text/html; charset=utf-8", "Content-Length": str(len(text.encode()))})
        if self.command == "GET":
            self.wfile.write(text.encode())

    def _file(self, answer: Any) -> None:
        self.close_connection = "Content-Length" not in answer.headers
        self._answer(answer.status, {name: answer.headers[name] for name in _PASSED if name in answer.headers})
        if self.command == "GET":
            shutil.copyfileobj(answer, self.wfile)

    def _fail(self, url: str, code: int, why: str) -> None:
        if code != 404:  # of several indexes one has a project
            print(f"{url.partition('?')[0]}: {why}", flush=True)
        self._refuse(403 if code == 401 else code, why)  # at 401 pip would ask for a password

    def _refuse(self, code: int, why: str) -> None:
        self.close_connection = True
        if self._answered:  # what breaks off later can only be cut
            return
        self._answer(code, {"Content-Length": "0"}, why.encode("ascii", "replace").decode()[:200])

    def _answer(self, code: int, headers: dict[str, str], words: str | None = None) -> None:
        self._answered = True
        self.send_response(code, words)
        for name, value in headers.items():
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Failures are told, and nothing else."""


def main(folder: str) -> None:
    path = os.path.join(folder, "gate.json")
    with open(path, encoding="utf-8") as file:
        order = json.load(file)
    if not order["kept"]:
        os.unlink(path)  # from here on it is in this process only
    for network in order["closes"]:
        try:
            close(network)
        except OSError as error:
            sys.exit(f"the way to {network[0]} cannot be closed in this container: {error}")
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))  # as process 1 it would not be ended by it
    server = Server(Indexes(order["indexes"], order["certificates"]))
    threading.Timer(order["seconds"], os._exit, (0,)).start()  # whoever made it may not be there to end it
    server.serve_forever()


if __name__ == "__main__":
    main(os.path.dirname(os.path.abspath(__file__)))
