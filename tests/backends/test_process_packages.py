"""Python packages in environments of their own. The packages are made here, and need no index."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import signal
import subprocess
import sys
import textwrap
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from airflow_customjob.backends.base import Engine, LaunchRefused, ReplicaRef
from airflow_customjob.backends.process import ProcessBackend, environments
from airflow_customjob.backends.process.proc import processes, tree
from airflow_customjob.client import CustomJobClient
from airflow_customjob.plan.types import JobId, JobPlan, Package
from tests.backends.contract import Act, plan_of, sleeps

MODULE = """
import importlib.util, os, sys
print("prefix", sys.prefix)
print("airflow", importlib.util.find_spec("airflow"))
print("version", {version!r}, sys.argv[1:])
"""


def wheel(folder: Path, name: str = "trainer", version: str = "0.1", requires: str = "", broken: bool = False) -> Path:
    """A package with the module ``<name>.task``."""
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}-{version}-py3-none-any.whl"
    about = f"{'other' if broken else name}-{version}.dist-info"
    files = {
        f"{name}/__init__.py": "",
        f"{name}/task.py": MODULE.format(version=version),
        f"{about}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        + (f"Requires-Dist: {requires}\n" if requires else ""),
        f"{about}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    rows = []
    for file, text in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
        rows.append(f"{file},sha256={digest},{len(text)}")
    files[f"{about}/RECORD"] = "\n".join((*rows, f"{about}/RECORD,,", ""))
    with zipfile.ZipFile(path, "w") as archive:
        for file, text in files.items():
            archive.writestr(file, text)
    return path


def test_pools_that_run_the_same_are_prepared_together() -> None:
    acts = [Act(("python3", "-m", "trainer.task"), sleeps().script)] * 4
    made = plan_of(JobId("42"), acts, "none")
    package, other = Package(("a.whl",), "trainer.task"), Package(("b.whl",), "trainer.task")
    packages = (package, other, replace(package, module="trainer.evaluate"), None)
    pools = tuple(replace(pool, package=given) for pool, given in zip(made.pools, packages, strict=True))
    groups = replace(made, pools=pools).alike()
    assert [[pool.index for pool in group] for group in groups] == [[0, 2], [1], [3]]


def plan(*packages: Path, module: str = "trainer.task", job_id: str = "42") -> JobPlan:
    made = plan_of(JobId(job_id), [Act(("python3", "-m", module), sleeps().script, args=("--epochs", "3"))], "none")
    package = Package(tuple(map(str, packages)), module)
    return replace(made, pools=(replace(made.pools[0], package=package),))


@pytest.fixture
def backend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ProcessBackend:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return ProcessBackend(state_folder=str(tmp_path / "state"))


@pytest.fixture(params=["uv", pytest.param("pip", marks=pytest.mark.slow)])
def installer(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "pip":
        monkeypatch.setattr(environments, "_uv", lambda: None)
    elif environments._uv() is None:
        pytest.skip("there is no uv")
    return str(request.param)


async def output(engine: Engine, job: JobPlan) -> list[str]:
    """Run the job's one replica to its end, and take it away."""
    ref = ReplicaRef(job.job_id, 1, 0, "workerpool0-0", 0)
    await engine.create(job, [ref])
    await engine.start(job, [ref])
    lines = [line.text async for line in engine.logs(ref)]
    await engine.remove([ref])
    await engine.release(job.job_id)
    return lines


async def prepared(engine: Engine, job: JobPlan) -> tuple[JobPlan, list[str]]:
    said: list[str] = []
    return replace(job, prepared=await engine.prepare(job, said.append)), said


def test_a_package_runs_in_an_environment_of_its_own(backend: ProcessBackend, tmp_path: Path, installer: str) -> None:
    package = wheel(tmp_path / "dist")

    async def main() -> None:
        async with backend.open() as engine:
            job, said = await prepared(engine, plan(package))
            environment = job.prepared.artifacts["0"]
            assert environment.startswith(str(tmp_path / "state" / "environments"))
            assert await output(engine, job) == [
                f"prefix {environment}",
                "airflow None",
                "version 0.1 ['--epochs', '3']",
            ]
            assert job.prepared.notes == (
                f"workerpool0: {package.name} sha256:{hashlib.sha256(package.read_bytes()).hexdigest()}",
            )
            passes = [line for line in said if line.startswith("Running command: ") and package.name in line]
            assert ["--no-deps" in line for line in passes] == [True, False]
            assert all((installer in line) for line in passes)

    asyncio.run(main())


def test_an_environment_is_made_once(backend: ProcessBackend, tmp_path: Path) -> None:
    package = wheel(tmp_path / "dist")

    async def main() -> None:
        async with backend.open() as engine:
            twice = await asyncio.gather(*(prepared(engine, plan(package, job_id=str(n))) for n in (1, 2, 3)))
            assert len({job.prepared.artifacts["0"] for job, _ in twice}) == 1
            hits = [any("cache hit" in line for line in said) for _, said in twice]
            assert sorted(hits) == [False, True, True]
            package.unlink()
            wheel(tmp_path / "dist")
            changed = wheel(tmp_path / "dist", version="0.2")
            job, said = await prepared(engine, plan(changed))
            assert not any("cache hit" in line for line in said)
            assert "version 0.2 ['--epochs', '3']" in await output(engine, job)

    asyncio.run(main())


def test_gc_removes_environments_that_no_job_has_used_for_long(
    backend: ProcessBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> list[Path]:
        async with backend.open() as engine:
            return [
                Path(
                    (await prepared(engine, plan(wheel(tmp_path / "dist", version=version))))[0].prepared.artifacts["0"]
                )
                for version in ("0.1", "0.2")
            ]

    old, used = asyncio.run(main())
    os.utime(old / environments.COMPLETE, (time.time() - 2 * 86400,) * 2)
    client, said = CustomJobClient(backend), list[str]()
    client.gc(say=said.append)
    assert not said
    monkeypatch.setenv("AIRFLOW__CUSTOMJOB__INSTALLATIONS_TTL", "86400")
    client.gc(say=said.append, dry_run=True)
    assert said == [f"environment {old}: remove"]
    assert old.exists()
    client.gc(say=said.append)
    assert sorted(path.name for path in used.parent.iterdir()) == [used.name, f"{used.name}.lock"]
    # what somebody who was killed has left: an environment that was never finished, and a lock of none
    (used.with_name("half") / "bin").mkdir(parents=True)
    used.with_name("alone.lock").touch()
    client.gc(say=said.append)
    assert sorted(path.name for path in used.parent.iterdir()) == [used.name, f"{used.name}.lock"]


def test_environments_share_the_files_of_the_installers_cache(backend: ProcessBackend, tmp_path: Path) -> None:
    if environments._uv() is None:
        pytest.skip("there is no uv")

    async def main() -> int:
        async with backend.open() as engine:
            job, _ = await prepared(engine, plan(wheel(tmp_path / "dist")))
            (module,) = Path(job.prepared.artifacts["0"]).glob("lib/*/site-packages/trainer/task.py")
            return module.stat().st_nlink

    assert asyncio.run(main()) > 1


def test_packages_are_installed_in_their_order(backend: ProcessBackend, tmp_path: Path) -> None:
    """The last one of a project stays, and a package may need one before it."""
    dist = tmp_path / "dist"
    packages = [
        wheel(dist, "library", "1.0"),
        wheel(dist, version="0.2", requires="library"),
        wheel(dist, version="0.1"),
    ]

    async def main() -> None:
        async with backend.open() as engine:
            job, _ = await prepared(engine, plan(*packages))
            assert (await output(engine, job))[-1] == "version 0.1 ['--epochs', '3']"

    asyncio.run(main())


def test_requirements_and_the_interpreter_make_another_environment(backend: ProcessBackend, tmp_path: Path) -> None:
    package, library = wheel(tmp_path / "dist"), wheel(tmp_path / "dist", "library")

    async def main() -> None:
        other = replace(backend, requirements=(str(library),))
        async with backend.open() as engine, other.open() as with_library:
            plain, _ = await prepared(engine, plan(package, module="library.task"))
            fuller, _ = await prepared(with_library, plan(package, module="library.task"))
            assert plain.prepared.artifacts != fuller.prepared.artifacts
            assert "No module named" in (await output(engine, plain))[-1]
            assert (await output(with_library, fuller))[-1] == "version 0.1 ['--epochs', '3']"
        with pytest.raises(LaunchRefused, match="/no/such/python"):
            async with replace(backend, python="/no/such/python").open() as engine:
                await prepared(engine, plan(package))

    asyncio.run(main())


def test_a_package_that_cannot_be_installed_is_refused_with_the_installers_words(
    backend: ProcessBackend, tmp_path: Path, installer: str
) -> None:
    package = wheel(tmp_path / "dist", broken=True)

    async def main() -> None:
        async with backend.open() as engine:
            with pytest.raises(LaunchRefused) as refused:
                await prepared(engine, plan(package))
            assert package.name in refused.value.message
            assert "exited with" in refused.value.message
            assert "zip" in refused.value.message.lower() or "invalid" in refused.value.message.lower()
            assert [path.suffix for path in (tmp_path / "state" / "environments").iterdir()] == [".lock"]

    asyncio.run(main())


def test_an_environment_that_was_never_finished_is_made_anew(backend: ProcessBackend, tmp_path: Path) -> None:
    package = wheel(tmp_path / "dist")

    async def main() -> None:
        async with backend.open() as engine:
            job, _ = await prepared(engine, plan(package))
            environment = Path(job.prepared.artifacts["0"])
            (environment / "complete").unlink()
            (environment / "bin" / "python3").unlink()
            again, said = await prepared(engine, plan(package))
            assert again.prepared.artifacts == job.prepared.artifacts
            assert not any("cache hit" in line for line in said)
            assert "version 0.1 ['--epochs', '3']" in await output(engine, again)

    asyncio.run(main())


BUILDER = """
import asyncio, sys
from pathlib import Path
from airflow_customjob.backends.process import environments
from airflow_customjob.packaging import fetch

async def main():
    packages = await fetch([sys.argv[2]], print)
    environments.install_commands = lambda path, pip: (("sleep", "3"),)
    await environments.environment_for(Path(sys.argv[1]), packages, lambda line: print(line, flush=True), python="", requirements=())

asyncio.run(main())
"""


def test_a_builder_that_dies_leaves_its_installer_to_be_waited_for(backend: ProcessBackend, tmp_path: Path) -> None:
    """Or two would write one environment at once."""
    package = wheel(tmp_path / "dist")

    def build_and_die() -> None:
        builder = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(BUILDER), str(tmp_path / "state" / "environments"), str(package)],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert builder.stdout
        for line in builder.stdout:
            if "sleep 3" in line:
                break
        while not any(b"sleep" in Path(f"/proc/{p.pid}/cmdline").read_bytes() for p in tree(processes(), builder.pid)):
            time.sleep(0.01)
        os.kill(builder.pid, signal.SIGKILL)
        builder.wait()
        builder.stdout.close()

    async def main() -> None:
        async with backend.open() as engine:
            await asyncio.to_thread(build_and_die)
            began = asyncio.get_running_loop().time()
            job, said = await prepared(engine, plan(package))
            assert asyncio.get_running_loop().time() - began > 2
            assert not any("cache hit" in line for line in said)
            assert "version 0.1 ['--epochs', '3']" in await output(engine, job)

    asyncio.run(main())


def test_another_index_makes_another_environment_and_its_password_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "PIP_EXTRA_INDEX_URL", "UV_INDEX"):
        monkeypatch.delenv(name, raising=False)
    told = []
    for url in ("https://me:one@index.example/simple", "https://me:two@index.example/simple", "https://other.example/"):
        monkeypatch.setenv("PIP_INDEX_URL", url)
        told.append(environments._told())
    assert told[0] == told[1] != told[2]
    assert "PIP_INDEX_URL=https://index.example/simple" in told[0]
    monkeypatch.setenv("PIP_CERT", "/elsewhere.pem")
    assert environments._told() == told[2]
    for name in ("UV_RESOLUTION", "UV_EXCLUDE_NEWER", "PIP_NO_BINARY"):
        monkeypatch.setenv(name, "any")
        told.append(environments._told())
        assert told[-1] != told[-2]


def test_a_backend_takes_no_login_among_its_requirements() -> None:
    ProcessBackend(requirements=("torch==2.3", "lib @ git+https://host/lib@v1.0"))
    with pytest.raises(ValueError, match=r"requirements\[0\] holds a login") as refused:
        ProcessBackend(requirements=("lib @ https://bob:s3cret@host/lib-1.whl",))
    assert "s3cret" not in str(refused.value)


def test_what_installs_knows_none_of_our_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", "postgresql://airflow:pa55word@db/airflow")
    monkeypatch.setenv("PIP_INDEX_URL", "https://index.example/simple")
    monkeypatch.setenv("PIP_FIND_LINKS", "/a /b")
    monkeypatch.delenv("UV_FIND_LINKS", raising=False)
    monkeypatch.delenv("UV_DEFAULT_INDEX", raising=False)
    env = environments._environ()
    assert not [name for name in env if name.startswith("AIRFLOW")]
    assert env["UV_DEFAULT_INDEX"] == env["PIP_INDEX_URL"] == "https://index.example/simple"
    assert env["UV_FIND_LINKS"] == "/a,/b"
