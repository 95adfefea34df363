"""Downloads that break off, change, stall or are refused; against a real server."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from aiohttp import web

from airflow_customjob.packaging import Fetched, PackageError, fetch, http, store
from tests.packaging.serving import refusal, sdist, serving, silent

BYTES = sdist(pad=300_000)
OTHER = sdist(version="0.2", pad=300_000)
Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "PAUSES", (0.01, 0.01))


def download(answer: Answer, folder: Path, *, times: int = 1, name: str = "t-1.tar.gz", **how: int) -> list[Fetched]:
    async def main() -> list[Fetched]:
        async with serving(answer) as address:
            uri = f"http://{address}/{name}"
            return [(await fetch([uri], silent, folder=folder, **how))[0] for _ in range(times)]

    return asyncio.run(main())


async def cut_off(request: web.Request, data: bytes, **headers: str) -> web.StreamResponse:
    """The first part of what was announced."""
    response = web.StreamResponse(headers={"Content-Length": str(len(data)), **headers})
    await response.prepare(request)
    await response.write(data[: len(data) // 2])
    assert request.transport
    request.transport.close()
    return response


def part(request: web.Request, data: bytes, **headers: str) -> web.Response:
    """What a server gives that knows ranges."""
    begins = int(request.headers["Range"].removeprefix("bytes=").removesuffix("-"))
    told = {"Content-Range": f"bytes {begins}-{len(data) - 1}/{len(data)}", **headers}
    return web.Response(status=206, body=data[begins:], headers=told)


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
def test_a_download_that_is_refused_for_now_is_tried_again(folder: Path, status: int) -> None:
    answers = [web.Response(status=status), web.Response(body=BYTES)]

    async def answer(request: web.Request) -> web.Response:
        return answers.pop(0)

    assert download(answer, folder)[0].path.read_bytes() == BYTES
    assert not answers


def test_a_download_that_breaks_off_goes_on_where_it_was(folder: Path) -> None:
    asked: list[str] = []

    async def answer(request: web.Request) -> web.StreamResponse:
        asked.append(request.headers.get("Range", ""))
        if len(asked) == 1:
            return await cut_off(request, BYTES, ETag='"one"')
        assert request.headers["If-Range"] == '"one"'
        return part(request, BYTES, ETag='"one"')

    (got,) = download(answer, folder)
    assert got.sha256 == hashlib.sha256(BYTES).hexdigest()
    assert asked[1] != "bytes=0-", "it came whole again"


def test_a_file_that_was_replaced_meanwhile_comes_whole(folder: Path) -> None:
    """Half of the one and half of the other would be a package that nobody made."""
    asked: list[str] = []

    async def answer(request: web.Request) -> web.StreamResponse:
        asked.append(request.headers.get("Range", ""))
        if len(asked) == 1:
            return await cut_off(request, BYTES, ETag='"one"')
        return web.Response(body=OTHER, headers={"ETag": '"two"'})

    assert download(answer, folder)[0].path.read_bytes() == OTHER
    assert len(asked) == 2


def test_a_server_that_goes_on_with_another_file_is_not_believed(folder: Path) -> None:
    asked: list[str] = []

    async def answer(request: web.Request) -> web.StreamResponse:
        asked.append(request.headers.get("Range", ""))
        if len(asked) == 1:
            return await cut_off(request, BYTES, ETag='"one"')
        if len(asked) == 2:
            return part(request, OTHER, ETag='"two"')
        return web.Response(body=OTHER, headers={"ETag": '"two"'})

    assert download(answer, folder)[0].path.read_bytes() == OTHER
    assert asked[2] == ""


def test_without_a_version_a_download_starts_again_from_nothing(folder: Path) -> None:
    asked: list[str] = []

    async def answer(request: web.Request) -> web.StreamResponse:
        asked.append(request.headers.get("Range", ""))
        return await cut_off(request, BYTES, ETag='W/"one"') if len(asked) == 1 else web.Response(body=BYTES)

    assert download(answer, folder)[0].path.read_bytes() == BYTES
    assert asked == ["", ""]


def test_what_has_not_changed_does_not_come_again(folder: Path) -> None:
    sent: list[int] = []

    async def answer(request: web.Request) -> web.Response:
        known = request.headers.get("If-None-Match") == '"one"'
        sent.append(304 if known else 200)
        return web.Response(status=304) if known else web.Response(body=BYTES, headers={"ETag": '"one"'})

    first, second = download(answer, folder, times=2)
    assert sent == [200, 304]
    assert first == second
    first.path.write_bytes(b"damaged")
    (mended,) = download(answer, folder)
    assert mended.path.read_bytes() == BYTES, "the bytes decide, not the version"


@pytest.mark.parametrize(
    ("status", "times", "words"),
    [(404, 1, "there is no such file"), (403, 1, "may not read it"), (401, 1, "netrc"), (500, 3, "check the URL")],
)
def test_what_is_not_served_is_refused_without_credentials(folder: Path, status: int, times: int, words: str) -> None:
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
    assert f"/t-1.whl: it cannot be downloaded: HTTP {status}" in message
    assert words in message
    assert len(asked) == times
    assert "pa55word" not in message
    assert "s1gnature" not in message


def test_nobody_answers(folder: Path) -> None:
    message = refusal("http://user:pa55word@127.0.0.1:1/t-1.whl", folder=folder)
    assert "http://127.0.0.1:1/t-1.whl: it cannot be downloaded: " in message
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

    with pytest.raises(PackageError, match="more than 100,000 bytes"):
        download(answer, folder, max_size=100_000)
    assert not list(folder.iterdir())


def test_a_long_download_tells_how_far_it_is(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "TELL", 0.0)
    lines: list[str] = []
    data = sdist(pad=3_000_000)

    async def answer(request: web.Request) -> web.Response:
        return web.Response(body=data)

    async def main() -> None:
        async with serving(answer) as address:
            await fetch([f"http://{address}/t-1.tar.gz"], lines.append, folder=folder)

    asyncio.run(main())
    assert any(line.endswith("/t-1.tar.gz: 3 of 3 MB") for line in lines), lines
