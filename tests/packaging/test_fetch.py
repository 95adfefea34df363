"""What is fetched, what is refused, and that no message holds a credential. Servers are real ones on the loopback."""

from __future__ import annotations

import asyncio
import hashlib
import multiprocessing
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib import import_module
from pathlib import Path

import pytest
from aiohttp import web

from airflow_customjob.packaging import Fetched, PackageError, fetch, packages_folder

BYTES = b"not really an archive, but nobody here looks inside\n" * 5000


def silent(line: str) -> None:
    pass


def fetched(*uris: str, folder: Path, say: Callable[[str], None] = silent, **how: int) -> tuple[Fetched, ...]:
    return asyncio.run(fetch(uris, say, folder=folder, **how))


def refusal(uri: str, folder: Path, **how: int) -> str:
    with pytest.raises(PackageError) as error:
        fetched(uri, folder=folder, **how)
    assert not list(folder.glob(".incoming-*")), "nothing unfinished stays"
    return error.value.message


@pytest.fixture
def package(tmp_path: Path) -> Path:
    path = tmp_path / "trainer-0.1.tar.gz"
    path.write_bytes(BYTES)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(import_module("airflow_customjob.packaging.fetch"), "RETRY_AFTER", 0.01)


@asynccontextmanager
async def serving(handler: Callable[[web.Request], object]) -> AsyncIterator[str]:
    """The address, without a scheme, of a server that answers every path."""
    app = web.Application()
    app.router.add_get("/{path:.*}", handler)  # type: ignore[arg-type]
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


# -- what is fetched ------------------------------------------------------------------------------------------------


def test_a_local_package_is_hashed_and_kept_by_its_hash(package: Path, folder: Path) -> None:
    lines: list[str] = []
    (got,) = fetched(str(package), folder=folder, say=lines.append)
    assert got.filename == "trainer-0.1.tar.gz"
    assert got.sha256 == hashlib.sha256(BYTES).hexdigest()
    assert got.size == len(BYTES)
    assert got.path == folder / got.sha256 / got.filename
    assert got.path.read_bytes() == BYTES
    assert lines == [f"Downloading the package: {package}"]


def test_packages_keep_their_order_and_a_file_url_is_a_path(package: Path, folder: Path) -> None:
    other = package.with_name("my lib-2#1.whl")
    other.write_bytes(b"other")
    got = fetched(other.as_uri(), str(package), str(other), folder=folder)
    assert [one.filename for one in got] == ["my lib-2#1.whl", "trainer-0.1.tar.gz", "my lib-2#1.whl"]
    assert got[0].path == got[2].path


def test_a_name_with_colons_is_kept(package: Path, folder: Path) -> None:
    """As google-cloud-aiplatform's from_local_script gives them."""
    odd = package.rename(
        package.with_name("aiplatform-2026-01-01-10:11:44.810-aiplatform_custom_trainer_script-0.1.tar.gz")
    )
    assert fetched(str(odd), folder=folder)[0].filename == odd.name


def test_a_changed_package_is_another_and_the_first_stays(package: Path, folder: Path) -> None:
    (before,) = fetched(str(package), folder=folder)
    package.write_bytes(b"changed")
    (after,) = fetched(str(package), folder=folder)
    assert after.sha256 != before.sha256
    assert before.path.read_bytes() == BYTES


def test_what_was_damaged_in_the_folder_is_mended(package: Path, folder: Path) -> None:
    (before,) = fetched(str(package), folder=folder)
    before.path.write_bytes(b"damaged")
    (after,) = fetched(str(package), folder=folder)
    assert after == before
    assert after.path.read_bytes() == BYTES


def _fetch_in_process(arguments: tuple[str, Path]) -> str:
    uri, folder = arguments
    (got,) = fetched(uri, folder=folder)
    return hashlib.sha256(got.path.read_bytes()).hexdigest()


def test_processes_may_share_a_folder(package: Path, folder: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        hashes = pool.map(_fetch_in_process, [(str(package), folder)] * 12)
    assert set(hashes) == {hashlib.sha256(BYTES).hexdigest()}
    assert [path.name for path in folder.iterdir()] == [hashes[0]]


def test_the_folder_is_in_the_users_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert packages_folder() == tmp_path / "airflow-customjob" / "packages"
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert packages_folder() == tmp_path / "home" / ".cache" / "airflow-customjob" / "packages"


# -- over http ------------------------------------------------------------------------------------------------------


def test_a_download_is_the_bytes_that_were_served(folder: Path) -> None:
    seen: list[str] = []
    lines: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        seen.append(f"{request.path_qs} {request.headers.get('Authorization', '')}")
        return web.Response(body=BYTES)

    async def main() -> None:
        async with serving(answer) as address:
            uri = f"http://user:pa55word@{address}/dist/my%2Btrainer-0.1.tar.gz?token=t0ken"
            (got,) = await fetch([uri], lines.append, folder=folder)
            assert got.filename == "my+trainer-0.1.tar.gz"
            assert got.path.read_bytes() == BYTES
            assert got.uri == f"http://{address}/dist/my%2Btrainer-0.1.tar.gz"

    asyncio.run(main())
    assert seen[0].startswith("/dist/my%2Btrainer-0.1.tar.gz?token=t0ken Basic ")
    assert "pa55word" not in "".join(lines)
    assert "t0ken" not in "".join(lines)


@pytest.mark.parametrize("status", [500, 503, 429])
def test_a_download_is_tried_twice(folder: Path, status: int) -> None:
    answers = [web.Response(status=status), web.Response(body=BYTES)]

    async def answer(request: web.Request) -> web.Response:
        return answers.pop(0)

    async def main() -> None:
        async with serving(answer) as address:
            (got,) = await fetch([f"http://{address}/t-1.whl"], silent, folder=folder)
            assert got.path.read_bytes() == BYTES

    asyncio.run(main())
    assert not answers


def test_a_download_that_breaks_off_starts_again_from_nothing(folder: Path) -> None:
    broken: list[int] = []

    async def answer(request: web.Request) -> web.StreamResponse:
        if broken:
            return web.Response(body=BYTES)
        broken.append(1)
        response = web.StreamResponse(headers={"Content-Length": str(len(BYTES))})
        await response.prepare(request)
        await response.write(BYTES[:1000])
        assert request.transport
        request.transport.close()
        return response

    async def main() -> None:
        async with serving(answer) as address:
            (got,) = await fetch([f"http://{address}/t-1.whl"], silent, folder=folder)
            assert got.sha256 == hashlib.sha256(BYTES).hexdigest()
            assert got.size == len(BYTES)

    asyncio.run(main())


@pytest.mark.parametrize(("status", "times"), [(404, 1), (403, 1), (500, 2)])
def test_what_is_not_served_is_refused_without_credentials(folder: Path, status: int, times: int) -> None:
    asked: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        asked.append(request.path)
        return web.Response(status=status)

    async def main() -> str:
        async with serving(answer) as address:
            with pytest.raises(PackageError) as error:
                await fetch([f"http://user:pa55word@{address}/t-1.whl?sig=s1gnature#frag"], silent, folder=folder)
            return error.value.message

    message = asyncio.run(main())
    assert f"HTTP {status}" in message
    assert "/t-1.whl cannot be downloaded" in message
    assert len(asked) == times
    assert "pa55word" not in message
    assert "s1gnature" not in message


def test_nobody_answers(folder: Path) -> None:
    message = refusal("http://user:pa55word@127.0.0.1:1/t-1.whl", folder)
    assert message.startswith("package http://127.0.0.1:1/t-1.whl cannot be downloaded: ")
    assert "refused" in message.lower()


@pytest.mark.parametrize("told", [True, False], ids=["by its length", "while it comes"])
def test_an_endless_answer_is_cut_off(folder: Path, told: bool) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        if told:
            return web.Response(body=BYTES)
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(BYTES)

    async def main() -> None:
        async with serving(answer) as address:
            with pytest.raises(PackageError, match="more than 100,000 bytes"):
                await fetch([f"http://{address}/t-1.whl"], silent, folder=folder, max_size=100_000)

    asyncio.run(main())
    assert not list(folder.iterdir())


# -- what is refused ------------------------------------------------------------------------------------------------


REFUSED = [
    ("gs://bucket/dist/trainer-0.1.tar.gz", "gcloud storage cp gs://bucket/dist/trainer-0.1.tar.gz"),
    ("dist/trainer-0.1.tar.gz", "write it absolute"),
    ("/no/such/trainer-0.1.tar.gz", "/no/such/trainer-0.1.tar.gz does not exist"),
    ("file://elsewhere/trainer-0.1.tar.gz", "file:///absolute/path"),
    ("ftp://host/trainer-0.1.tar.gz", "ftp:// is not known here"),
    ("http://127.0.0.1:1/requests", "not named like a Python package"),
    ("http://127.0.0.1:1/--index-url=x.whl", "not named like a Python package"),
    ("http://127.0.0.1:1/%2e%2e%2ftrainer%0a.whl", "not named like a Python package"),
    ("http://[::1/trainer.whl", "cannot be read"),
    ("", "relative path"),
]


@pytest.mark.parametrize(("uri", "words"), REFUSED)
def test_what_cannot_be_had_is_refused_with_what_to_do(folder: Path, uri: str, words: str) -> None:
    assert words in refusal(uri, folder)


def test_the_source_of_a_package_is_refused(tmp_path: Path, folder: Path) -> None:
    source = tmp_path / "trainer"
    source.mkdir()
    assert "a directory" in refusal(str(source), folder)
    (source / "pyproject.toml").touch()
    message = refusal(str(source), folder)
    assert "the source of a package" in message
    assert "python3 -m build" in message


def test_a_package_that_is_too_large_is_refused(package: Path, folder: Path) -> None:
    assert "more than 1,000 bytes" in refusal(str(package), folder, max_size=1000)


def test_a_folder_that_cannot_be_used_is_an_error_with_its_reason(package: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(PackageError, match=r"Not a directory|File exists"):
        fetched(str(package), folder=tmp_path / "file")
