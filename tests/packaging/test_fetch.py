"""What is fetched, what is refused, and that no message holds a credential."""

from __future__ import annotations

import asyncio
import hashlib
import multiprocessing
from collections import Counter
from pathlib import Path

import pytest
from aiohttp import web

from airflow_customjob.packaging import PackageError, fetch, packages_folder
from airflow_customjob.packaging.fetch import AT_ONCE
from tests.packaging.serving import fetched, refusal, sdist, serving, silent

BYTES = sdist(pad=300_000)


@pytest.fixture
def package(tmp_path: Path) -> Path:
    path = tmp_path / "trainer-0.1.tar.gz"
    path.write_bytes(BYTES)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def test_a_local_package_is_hashed_and_kept_by_its_hash(package: Path, folder: Path) -> None:
    lines: list[str] = []
    (got,) = fetched(str(package), folder=folder, say=lines.append)
    assert got.filename == "trainer-0.1.tar.gz"
    assert got.sha256 == hashlib.sha256(BYTES).hexdigest()
    assert got.size == len(BYTES)
    assert got.path == folder / got.sha256 / got.filename
    assert got.path.read_bytes() == BYTES
    assert lines == [], "it did not have to come"


def test_packages_keep_their_order_and_a_file_url_is_a_path(package: Path, folder: Path) -> None:
    other = package.with_name("my lib-2#1.tgz")
    other.write_bytes(sdist("other"))
    got = fetched(other.as_uri(), str(package), str(other), folder=folder)
    assert [one.filename for one in got] == ["my lib-2#1.tgz", "trainer-0.1.tar.gz", "my lib-2#1.tgz"]
    assert got[0].path == got[2].path


def test_a_name_with_colons_is_kept(package: Path, folder: Path) -> None:
    """As google-cloud-aiplatform's from_local_script gives them."""
    odd = package.rename(
        package.with_name("aiplatform-2026-01-01-10:11:44.810-aiplatform_custom_trainer_script-0.1.tar.gz")
    )
    assert fetched(str(odd), folder=folder)[0].filename == odd.name


def test_a_changed_package_is_another_and_the_first_stays(package: Path, folder: Path) -> None:
    (before,) = fetched(str(package), folder=folder)
    package.write_bytes(sdist(version="changed"))
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
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        hashes = pool.map(_fetch_in_process, [(str(package), folder)] * 8)
    assert set(hashes) == {hashlib.sha256(BYTES).hexdigest()}
    assert [path.name for path in folder.iterdir()] == [hashes[0]]


def test_the_folder_is_in_the_users_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert packages_folder() == tmp_path / "airflow-customjob" / "packages"
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert packages_folder() == tmp_path / "home" / ".cache" / "airflow-customjob" / "packages"


def test_a_hundred_packages_come_some_at_once_and_in_their_order(folder: Path) -> None:
    busy: Counter[str] = Counter()

    async def answer(request: web.Request) -> web.Response:
        busy["now"] += 1
        busy["most"] = max(busy["most"], busy["now"])
        await asyncio.sleep(0.005)
        busy["now"] -= 1
        return web.Response(body=sdist(version=request.path[-8:-7]))

    async def main() -> None:
        async with serving(answer) as address:
            uris = [f"http://{address}/t-{number}.tar.gz" for number in range(100)]
            got = await fetch(uris, silent, folder=folder)
            assert [one.uri for one in got] == uris

    asyncio.run(main())
    assert 1 < busy["most"] <= AT_ONCE


# -- what is refused ------------------------------------------------------------------------------------------------


def test_everything_that_is_wrong_is_told_at_once_by_its_place_in_the_list(package: Path, folder: Path) -> None:
    broken = package.with_name("broken-0.1.tar.gz")
    broken.write_bytes(BYTES[:-1000])
    message = refusal("/no/such/a-1.whl", str(package), str(broken), folder=folder)
    first, second = message.splitlines()
    assert first.startswith("python_package_spec.package_uris[0]: /no/such/a-1.whl: it does not exist on this machine")
    assert second.startswith(f"python_package_spec.package_uris[2]: {broken}: it is no whole gzipped tar file")


REFUSED = [
    ("gs://bucket", "it names no object"),
    ("gs://bucket/dist/", "it names no object"),
    ("dist/trainer-0.1.tar.gz", "write it absolute"),
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
    assert words in refusal(uri, folder=folder)


def test_the_source_of_a_package_is_refused(tmp_path: Path, folder: Path) -> None:
    source = tmp_path / "trainer-0.1.whl"
    source.mkdir()
    assert "a directory" in refusal(str(source), folder=folder)
    (source / "pyproject.toml").touch()
    message = refusal(str(source), folder=folder)
    assert "the source of a package" in message
    assert "local_package_path" in message


def test_a_package_that_is_too_large_is_refused(package: Path, folder: Path) -> None:
    assert "more than 1,000 bytes" in refusal(str(package), folder=folder, max_size=1000)


def test_a_folder_that_cannot_be_used_is_an_error_with_its_reason(package: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(PackageError, match=r"Not a directory|File exists"):
        fetched(str(package), folder=tmp_path / "file")
