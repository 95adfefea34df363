"""What runs inside the executor image, by a real pip and a real index: which versions it comes to, and what it fetches for itself."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import threading
import venv
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pip
import pytest

from airflow_customjob.packaging import install

Handler = Callable[..., BaseHTTPRequestHandler]


def wheel(folder: Path, name: str, version: str, *requires: str) -> Path:
    path, info = folder / f"{name}-{version}-py3-none-any.whl", f"{name}-{version}.dist-info"
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}/__init__.py", "")
        lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", *requires]
        archive.writestr(f"{info}/METADATA", "\n".join(lines) + "\n")
        about = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        archive.writestr(f"{info}/WHEEL", about)
        archive.writestr(f"{info}/RECORD", "")
    return path


@contextmanager
def answering(handler: Handler) -> Iterator[str]:
    """The URL of a web server."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


class Files(SimpleHTTPRequestHandler):
    """A folder, as an index of packages too: ``/simple/NAME/`` lists what is there."""

    def log_message(self, format: str, *args: Any) -> None:
        pass


class Installation:
    """An order's folder, and a Python that it is carried out by."""

    def __init__(self, folder: Path, index: str) -> None:
        self.folder, self.index = folder, index
        venv.create(folder / "python", symlinks=True)
        (site,) = (folder / "python/lib").glob("python*/site-packages")
        (site / "pip").symlink_to(Path(pip.__file__).parent)  # its own installation takes seconds
        (folder / "install.py").write_bytes(Path(install.__file__).read_bytes())

    def run(self, *packages: Path, pin: bool = False, **order: Any) -> subprocess.CompletedProcess[str]:
        told = {"packages": [str(package) for package in packages], "indexes": [f"{self.index}/simple"]}
        told |= {"certificates": None, "seconds": 300.0, "gate": None, "work": str(self.folder / "work"), **order}
        (self.folder / "order.json").write_text(json.dumps(told))
        scripts = (
            self.folder / "python/bin"
        )  # alone on the PATH: whatever pip3 is found there installs for its own Python
        command = [scripts / "python3", self.folder / "install.py", *(["--pin"] if pin else [])]
        env = {"PATH": str(scripts)}
        return subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=300)

    def pins(self) -> dict[str, Any]:
        return dict(json.loads((self.folder / "work/out/pins.json").read_text()))

    def pin(self, pins: list[dict[str, str]]) -> None:
        (self.folder / "pins.json").write_text(json.dumps(pins))

    def installed(self) -> dict[str, str]:
        return dict(json.loads((self.folder / "work/out/installed.json").read_text()))


def test_versions_come_to_the_same_again_whatever_the_index_has_by_then(tmp_path: Path) -> None:
    """Two packages want a dependency of their own version each: the second one's is there in the end, as without pins."""
    files = tmp_path / "files"
    wheel(files / "simple/dep", "dep", "1.0")
    wheel(files / "simple/dep", "dep", "2.0", "Requires-Dist: deeper")
    wheel(files / "simple/deeper", "deeper", "0.1")
    one = wheel(tmp_path, "one", "1.0", "Requires-Dist: dep<2")
    two = wheel(tmp_path, "two", "1.0", "Requires-Dist: dep>=2")
    with answering(partial(Files, directory=str(files))) as url:
        first = Installation(tmp_path / "first", url)
        done = first.run(one, two, pin=True)
        assert done.returncode == 0, done.stdout + done.stderr
        assert first.pins() == {
            "installed": {"one": "1.0", "two": "1.0", "dep": "2.0", "deeper": "0.1"},
            "pins": [{"one": "", "dep": "1.0"}, {"two": "", "dep": "2.0", "deeper": "0.1"}],
        }
        for name, version in (("dep", "1.1"), ("dep", "3.0"), ("deeper", "0.2")):
            wheel(files / "simple" / name, name, version)
        again = Installation(tmp_path / "again", url)
        again.pin(first.pins()["pins"])
        done = again.run(one, two)
        assert done.returncode == 0, done.stdout + done.stderr
        assert again.installed() == first.pins()["installed"]


def test_a_package_whose_own_version_changes_with_each_build_is_not_held_to_one(tmp_path: Path) -> None:
    """It is a dependency of the package before it, from the index, and then itself, from its file."""
    files = tmp_path / "files"
    wheel(files / "simple/two", "two", "0.9")
    one, two = wheel(tmp_path, "one", "1.0", "Requires-Dist: two"), wheel(tmp_path, "two", "1.0")
    with answering(partial(Files, directory=str(files))) as url:
        made = Installation(tmp_path / "made", url)
        assert made.run(one, two, pin=True).returncode == 0
        assert made.pins()["pins"] == [{"one": "", "two": "0.9"}, {"two": ""}]


def test_of_a_project_in_two_places_the_one_that_python_takes_is_told(tmp_path: Path) -> None:
    """What a package upgrades of the image lies before it, and was told at the image's version."""
    for place, version in (("user", "2.0"), ("image", "1.0")):
        with zipfile.ZipFile(wheel(tmp_path, "dep", version)) as archive:
            archive.extractall(tmp_path / place)
    told = install._installed({"PYTHONPATH": f"{tmp_path / 'user'}:{tmp_path / 'image'}"})
    assert told["dep"] == "2.0"


def test_an_index_without_tls_is_one_that_pip_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    """It passed over whatever host it was not told to trust, and found nothing."""
    monkeypatch.setenv("PIP_TRUSTED_HOST", "mine.example")
    plain, other = "http://index.example:8080/simple", "https://index.example/simple"
    assert install.environment("/w", [other, plain], None)["PIP_TRUSTED_HOST"] == "mine.example index.example:8080"
    assert install.environment("/w", [other], None)["PIP_TRUSTED_HOST"] == "mine.example"


# -- what it fetches for itself -------------------------------------------------------------------------------------


def source_of(url: str, data: bytes, **other: Any) -> dict[str, Any]:
    shown = url.partition("?")[0]
    return {"url": url, "shown": shown, "sha256": hashlib.sha256(data).hexdigest(), "size": len(data), **other}


class Flaky(BaseHTTPRequestHandler):
    """Breaks off the first answer, and wants a query that it does not tell of."""

    data, tries = b"x" * 100_000, 0

    def do_GET(self) -> None:
        Flaky.tries += 1
        if self.path != "/greeter.whl?signature=secret":
            self.send_error(403)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.data)))
        self.end_headers()
        self.wfile.write(self.data[: 40_000 if Flaky.tries == 1 else None])

    def log_message(self, format: str, *args: Any) -> None:
        pass


def test_a_download_that_breaks_off_is_made_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with answering(Flaky) as url:
        Flaky.tries = 0
        install._fetch(str(tmp_path / "0/greeter.whl"), source_of(f"{url}/greeter.whl?signature=secret", Flaky.data))
    assert (tmp_path / "0/greeter.whl").read_bytes() == Flaky.data
    assert Flaky.tries == 2
    assert capsys.readouterr().out == f"Downloading the package: {url}/greeter.whl\n"


WRONG = [
    (
        {"sha256": "0" * 64},
        "?signature=secret",
        r"/greeter.whl has changed since the job was made: the sha256 was 0000",
    ),
    ({"size": 50_000}, "?signature=secret", r"/greeter.whl has changed since the job was made"),
    (
        {},
        "?signature=none",
        r"/greeter.whl cannot be downloaded here: HTTP 403; is that server reached without a login\?",
    ),
]


@pytest.mark.parametrize(("other", "query", "words"), WRONG)
def test_what_is_not_what_it_was_is_refused_without_its_query(
    tmp_path: Path, other: dict[str, Any], query: str, words: str
) -> None:
    with answering(Flaky) as url:
        Flaky.tries = 1
        with pytest.raises(install.Refusal, match=words) as refused:
            install._fetch(str(tmp_path / "0/g.whl"), source_of(f"{url}/greeter.whl{query}", Flaky.data, **other))
    assert "signature" not in str(refused.value)
    assert Flaky.tries == 2, "it is asked once"


def test_a_refused_package_is_the_last_word_of_the_installer(tmp_path: Path) -> None:
    with answering(Flaky) as url:
        made = Installation(tmp_path / "made", url)
        package = tmp_path / "made/work/0/greeter.whl"
        done = made.run(package, fetch={str(package): source_of(f"{url}/greeter.whl", Flaky.data)})
    assert done.returncode == install.REFUSED
    assert done.stdout.splitlines()[-1].startswith(f"{url}/greeter.whl cannot be downloaded here: HTTP 403")
    assert sys.executable not in done.stdout
