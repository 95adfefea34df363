"""A folder or a script of this machine as a package, as gcloud's autopackaging makes an image of it.

What has a ``pyproject.toml`` or a ``setup.py`` becomes a source distribution, which is built where the job runs. Anything
else becomes a wheel: it needs no building, so neither setuptools nor an index, and nothing of it runs before the job does.
The same code gives the same file under the same name, whoever packs it, wherever and whenever.
"""

from __future__ import annotations

import base64
import csv
import gzip
import hashlib
import io
import os
import re
import tarfile
import tempfile
import tomllib
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path

from airflow_customjob.packaging.package import PackageError, os_words
from airflow_customjob.packaging.store import packages_folder, touch
from airflow_customjob.spec.message import CustomJob
from airflow_customjob.spec.problem import Problem

MAX_CODE = 64 * 2**20
"""Bytes of a folder; more is data, or an environment."""
REQUIREMENTS = "requirements.txt"

_PROJECT = ("pyproject.toml", "setup.py")
_LEFT_OUT = re.compile(r"\..*|__pycache__|.*\.py[co]|.*\.(egg|dist)-info|node_modules")
_BUILT = ("build", "dist")
_LOGIN = re.compile(r"://[^/\s]*@")
"""In a requirement's URL; behind its host an @ names a revision."""
_CODE = "local_code_"
"""Begins the project's name of a wheel of code: a folder may be called as what it depends on."""
_EPOCH = (1980, 1, 1, 0, 0, 0)
"""The earliest time that a zip file can tell."""


def local_code(
    path: str | Path | None, module: str | None, base: Path | None
) -> Callable[[CustomJob], list[Problem]] | None:
    """What puts it into a job; None where there is none.

    :param base: directory that a relative path starts from.
    """
    if path is None:
        return None
    return partial(_amend, path=Path(base or "", path).absolute(), module=module)


def _amend(job: CustomJob, path: Path, module: str | None) -> list[Problem]:
    """Put local code into each pool that runs a package, after the packages that it names.

    :param module: run as ``python3 -m``, whatever the spec says; None: the spec's, else a script's own name.
    """
    tasks = [
        pool.python_package_spec
        for pool in job.job_spec.worker_pool_specs
        if pool.replica_count and pool.HasField("python_package_spec")
    ]
    if not tasks:
        message = (
            "no pool has a python_package_spec to run it: write one, with an executor_image_uri and a python_module"
        )
        return [Problem("local_package_path", message, str(path), "local-package")]
    if module is None and path.suffix == ".py":
        module = path.stem
    for task in tasks:
        task.python_module = module or task.python_module
    try:
        package = packed(path, [task.python_module for task in tasks if task.python_module])
    except PackageError as error:
        return [Problem("local_package_path", error.message, str(path), "local-package")]
    for task in tasks:
        task.package_uris.append(str(package))
    return []


def packed(path: Path, modules: Iterable[str] = ()) -> Path:
    """The package's file, in a folder of its own in :func:`~airflow_customjob.packaging.store.packages_folder`.

    :param path: a folder, or a script; beside it may be a ``requirements.txt``.
    :param modules: what will be run of it.
    :raises PackageError: it cannot be packed; says why.
    """
    try:
        files = _script(path) if path.is_file() else dict(_files(path))
        if not files:
            raise PackageError("there is no such file or folder on this machine, or nothing is in it")
        key = _hash(files)
        if path.is_dir() and any(name in files for name in _PROJECT):
            filename, make = f"{_project(files, path.name)}.tar.gz", _sdist
        else:
            _check_modules(files, modules)
            filename, make = f"{_CODE}{_distribution(path.stem)}-0.0.0+{key[:12]}-py3-none-any.whl", _wheel
        target, data = packages_folder() / f"local-{key}" / filename, make(files, filename)
        if target.is_file() and target.read_bytes() == data:
            touch(target)
            return target
        return _written(target, data)
    except OSError as error:
        raise PackageError(f"it cannot be packed: {error.filename or path}: {os_words(error)}") from None


def _written(target: Path, data: bytes) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=target.parent, prefix=".incoming-", delete=False) as file:
        file.write(data)
    os.chmod(file.name, 0o644)
    os.replace(file.name, target)
    return target


# -- what is packed -------------------------------------------------------------------------------------------------

Files = Mapping[str, tuple[bytes, bool]]
"""By path, in their order: content, and whether it may be executed."""


def _script(path: Path) -> Files:
    if path.suffix != ".py":
        raise PackageError("it is neither a folder nor a Python script (.py)")
    beside = path.with_name(REQUIREMENTS)
    found = {path.name: (path.read_bytes(), False)}
    return {**found, **({REQUIREMENTS: (beside.read_bytes(), False)} if beside.is_file() else {})}


def _files(root: Path) -> Iterator[tuple[str, tuple[bytes, bool]]]:
    left = MAX_CODE
    for folder, folders, names in os.walk(root):
        at_root = Path(folder) == root
        folders[:] = sorted(
            name
            for name in folders
            if not _LEFT_OUT.fullmatch(name)
            and not (at_root and name in _BUILT)
            and not Path(folder, name, "pyvenv.cfg").exists()
        )
        for name in folders:
            if Path(folder, name).is_symlink():
                raise PackageError(f"{Path(folder, name)} is a link to a folder: put the folder itself there")
        for name in sorted(names):
            path = Path(folder, name)
            if _LEFT_OUT.fullmatch(name) or not path.is_file():
                continue
            if not _is_text(name) or not _is_text(folder.removeprefix(str(root))):
                raise PackageError(
                    f"{os.fsencode(path)!r}: its name is not in UTF-8, as names in packages are: rename it"
                )
            seen = path.stat()
            left -= seen.st_size
            if left < 0:
                raise PackageError(f"it holds more than {MAX_CODE:,} bytes: give data to the job by its own storage")
            yield path.relative_to(root).as_posix(), (path.read_bytes(), bool(seen.st_mode & 0o100))


def _is_text(name: str) -> bool:
    """Bytes that were no text stand as lone surrogates in it."""
    return not any("\ud800" <= letter <= "\udfff" for letter in name)


def _hash(files: Files) -> str:
    digest = hashlib.sha256()
    for name in sorted(files):
        data, runs = files[name]
        digest.update(f"{name}\0{runs}\0{hashlib.sha256(data).hexdigest()}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def _check_modules(files: Files, modules: Iterable[str]) -> None:
    for module in modules:
        path = module.replace(".", "/")
        if not {f"{path}.py", f"{path}/__main__.py"} & files.keys():
            there = [name.removesuffix(".py").replace("/", ".") for name in files if name.endswith(".py")]
            some = ", ".join(sorted(there, key=lambda name: (name.count("."), name))[:5]) or "none"
            raise PackageError(f"the python_module {module} is not in it; there are: {some}")


def _project(files: Files, folder: str) -> str:
    """Name and version where both stand in ``pyproject.toml``: installers refuse a file that claims others than what is built of it
    has. Else a name alone, which claims nothing."""
    from packaging.version import InvalidVersion, Version

    project = None
    if "pyproject.toml" in files:
        try:
            project = tomllib.loads(files["pyproject.toml"][0].decode()).get("project")
        except ValueError as error:
            raise PackageError(f"its pyproject.toml cannot be read: {error}") from None
    name, version = (project.get(key) for key in ("name", "version")) if isinstance(project, dict) else (None, None)
    if isinstance(name, str) and isinstance(version, str):
        with suppress(InvalidVersion):
            return f"{_distribution(name)}-{Version(version)}"
    return _distribution(folder)


def _distribution(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_") or "code"


# -- how it is packed -----------------------------------------------------------------------------------------------


def _sdist(files: Files, filename: str) -> bytes:
    root, stream = filename.removesuffix(".tar.gz"), io.BytesIO()
    with (
        gzip.GzipFile(filename="", fileobj=stream, mode="wb", mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        for name in sorted(files):
            data, runs = files[name]
            member = tarfile.TarInfo(f"{root}/{name}")
            member.size, member.mode = len(data), 0o755 if runs else 0o644
            tar.addfile(member, io.BytesIO(data))
    return stream.getvalue()


def _wheel(files: Files, filename: str) -> bytes:
    name, version, *_ = filename.split("-")
    about = f"{name}-{version}.dist-info"
    requires = [f"Requires-Dist: {line}" for line in _requirements(files.get(REQUIREMENTS, (b"", False))[0])]
    metadata = "\n".join(("Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", *requires, ""))
    contents = {path: files[path] for path in sorted(files) if path != REQUIREMENTS} | {
        f"{about}/METADATA": (metadata.encode(), False),
        f"{about}/WHEEL": (
            b"Wheel-Version: 1.0\nGenerator: airflow-customjob\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            False,
        ),
    }
    record = io.StringIO()
    rows = [(path, f"sha256={_digest(data)}", len(data)) for path, (data, _) in contents.items()]
    csv.writer(record, lineterminator="\n").writerows([*rows, (f"{about}/RECORD", "", "")])
    contents[f"{about}/RECORD"] = (record.getvalue().encode(), False)
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, (data, runs) in contents.items():
            member = zipfile.ZipInfo(path, _EPOCH)
            member.compress_type, member.create_system = zipfile.ZIP_DEFLATED, 3
            member.external_attr = (0o100755 if runs else 0o100644) << 16
            archive.writestr(member, data)
    return stream.getvalue()


def _digest(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()


def _requirements(text: bytes) -> Iterator[str]:
    """Each as a package's metadata says it.

    :raises PackageError: a line that only pip's command line knows.
    """
    from packaging.requirements import InvalidRequirement, Requirement

    for number, line in enumerate(text.decode("utf-8-sig", "replace").replace("\\\n", " ").splitlines(), 1):
        wanted = re.sub(r"(^|\s)#.*$", "", line).strip()
        if not wanted:
            continue
        shown = re.sub(r"(?<=://)\S*@", "", wanted)
        try:
            requirement = Requirement(wanted)
        except InvalidRequirement:
            raise PackageError(
                f"{REQUIREMENTS}, line {number}: {shown!r} cannot be what a package requires: write NAME==VERSION or "
                "NAME @ URL; indexes and hashes belong to the backend, other files' lines into this one"
            ) from None
        if _LOGIN.search(requirement.url or ""):
            raise PackageError(
                f"{REQUIREMENTS}, line {number}: {shown!r} had a login, which would stand in the package: give the backend an "
                "index_urls with a reference to it"
            )
        yield str(requirement)
