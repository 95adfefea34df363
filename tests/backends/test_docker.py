"""What only the Docker engine does, on a real Docker."""

from __future__ import annotations

import asyncio
import json
import os
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from airflow_customjob.backends import backend_of
from airflow_customjob.backends.base import EngineBusy, EngineError, LaunchRefused, Phase, Reason, ReplicaRef
from airflow_customjob.backends.docker import DockerBackend, images, starts
from airflow_customjob.backends.docker.access import access_of
from airflow_customjob.backends.docker.body import shm_bytes
from airflow_customjob.backends.docker.engine import DockerEngine
from airflow_customjob.backends.docker.networks import subnets_for
from airflow_customjob.plan.types import JobOptions, JobPlan, Resources
from tests.backends.contract import (
    Act,
    Bench,
    DockerAdapter,
    bench_on,
    plan_of,
    prints,
    sleeps,
    with_last_pool,
)

IMAGE = os.environ.get("CUSTOMJOB_TEST_IMAGE", "local/py:1")
docker = pytest.mark.docker


class Configured(DockerAdapter):
    def __init__(self, backend: DockerBackend) -> None:
        self._backend = backend

    def backend(self) -> DockerBackend:
        return self._backend


def on_docker(test: Callable[[Bench], Awaitable[None]], backend: DockerBackend | None = None) -> None:
    async def main() -> None:
        async with asyncio.timeout(150), bench_on(Configured(backend or DockerBackend())) as bench:
            await test(bench)

    asyncio.run(main())


def engine_of(bench: Bench) -> DockerEngine:
    assert isinstance(bench.engine, DockerEngine)
    return bench.engine


async def inspect(bench: Bench, ref: ReplicaRef) -> dict[str, Any]:
    found = await engine_of(bench)._api.inspect(ref.name)
    assert found is not None
    return found


def python(code: str, **env: str) -> Act:
    return Act(("python3", "-c", code), sleeps().script, env=tuple(env.items()))


def one_pool(plan: JobPlan, **resources: Any) -> JobPlan:
    return replace(plan, pools=tuple(replace(pool, resources=Resources(**resources)) for pool in plan.pools))


def secretly(plan: JobPlan, **secret_env: str) -> JobPlan:
    return replace(plan, options=JobOptions(secret_env=tuple(secret_env.items())))


async def launch(bench: Bench, plan: JobPlan) -> list[ReplicaRef]:
    plan = replace(plan, prepared=await bench.engine.prepare(plan, lambda line: None))
    refs = bench.refs(plan)
    await bench.engine.create(plan, refs)
    await bench.engine.start(plan, refs)
    return refs


# -- configuration and the dry run ----------------------------------------------------------------------------------


def test_a_backend_comes_back_from_what_airflow_stores() -> None:
    backend = DockerBackend(conn_id="registry", volumes=("/data:/data:ro",), gpus=("0", "1"), shm_size="2g")
    assert backend_of(json.loads(json.dumps(backend.serialize()))) == backend
    assert DockerBackend().serialize() == {"name": "docker"}


@pytest.mark.parametrize(
    ("size", "amount"), [("64m", 64 * 2**20), ("1.5g", 3 * 2**29), ("16GB", 2**34), ("1024", 1024), ("50%", "50%")]
)
def test_sizes_are_read(size: str, amount: int | str) -> None:
    assert shm_bytes(size, None) == amount


def test_a_size_that_is_none_is_refused_where_it_is_written() -> None:
    with pytest.raises(ValueError, match="shm_size is 'plenty'"):
        DockerBackend(shm_size="plenty")


COMMANDS = [
    pytest.param(("a",), ("b",), {"Entrypoint": ["a"], "Cmd": ["b"]}, id="both"),
    pytest.param(("a",), (), {"Entrypoint": ["a"], "Cmd": []}, id="command only: the image's CMD is ignored"),
    pytest.param((), ("b",), {"Cmd": ["b"]}, id="args only: the image's ENTRYPOINT stays"),
    pytest.param((), (), {}, id="neither: the image's own"),
]


@pytest.mark.parametrize(("command", "args", "wanted"), COMMANDS)
def test_command_and_args_are_entrypoint_and_cmd(
    command: tuple[str, ...], args: tuple[str, ...], wanted: dict[str, Any]
) -> None:
    plan = plan_of("123", [Act(command, sleeps().script, args=args)], IMAGE)  # type: ignore[arg-type]
    (body,) = DockerBackend().render(plan)
    assert {key: body[key] for key in ("Entrypoint", "Cmd") if key in body} == wanted


def test_a_dry_run_shows_everything_but_secrets() -> None:
    plan = plan_of("123", [prints(1), prints(1)], IMAGE)  # type: ignore[arg-type]
    plan = secretly(one_pool(plan, cpus=4.0, memory_bytes=2**34, gpus=2), TOKEN="env:CUSTOMJOB_TEST_TOKEN")
    network, first, second = DockerBackend(gpus=("0", "1")).render(plan)
    assert network["IPAM"]["Config"][0]["Subnet"].startswith("a free one of")
    assert "TOKEN=***" in first["Env"]
    config = first["HostConfig"]
    assert config["Init"] is True
    assert config["NanoCpus"] == 4_000_000_000
    assert config["ShmSize"] == "50%"
    assert "Memory" not in config, "memory limits are opt-in"
    assert config["DeviceRequests"] == [{"DeviceIDs": ["leased", "leased"], "Capabilities": [["gpu"]]}]
    assert config["NetworkMode"] == network["Name"]
    assert second["NetworkingConfig"]["EndpointsConfig"][network["Name"]]["Aliases"] == [plan.replicas[1].host]


def test_memory_limits_are_the_machine_types_when_asked_for() -> None:
    plan = one_pool(plan_of("123", [prints(1)], IMAGE), memory_bytes=2**34)  # type: ignore[arg-type]
    (body,) = DockerBackend().render(replace(plan, options=JobOptions(memory_limits=True)))
    assert (body["HostConfig"]["Memory"], body["HostConfig"]["MemorySwap"]) == (2**34, 2**34)


def test_what_is_no_subnet_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"subnets: '10\.0\.0\.1/8' is no IPv4 network"):
        DockerBackend(subnets=("10.0.0.1/8",))


def test_subnets_are_large_enough_and_all_of_the_range_is_tried() -> None:
    found = list(subnets_for("a", 3, ("10.0.0.0/24", "10.9.0.0/27")))
    assert sorted(found)[:2] == ["10.0.0.0/28", "10.0.0.112/28"]
    assert len(set(found)) == len(found) == 16 + 2
    assert next(subnets_for("a", 100, ("10.0.0.0/24",))).endswith("/25")
    assert not list(subnets_for("a", 300, ("10.0.0.0/24",)))


# -- what a replica sees --------------------------------------------------------------------------------------------


@docker
def test_replicas_meet_by_host_name_and_one_alone_has_no_network_of_its_own() -> None:
    async def test(bench: Bench) -> None:
        host = f"cmle-training-workerpool0-{int(bench.job_id) % 16**10:010x}-0"
        server = (
            "import socket as s, os; l=s.create_server(('', 2222)); c=l.accept()[0]; c.sendall(b'hello'); "
            "print(os.environ['HOSTNAME'], s.gethostname())"
        )
        client = (
            "import socket as s, os, time\nfor _ in range(100):\n try: c=s.create_connection((os.environ['PEER'], 2222)); break\n"
            " except OSError: time.sleep(.1)\nprint(c.recv(5).decode())"
        )
        refs = await launch(bench, bench.plan(python(server), python(client, PEER=host)))
        await bench.ended()
        assert await bench.texts(refs[0]) == [f"{host} {host}"]
        assert await bench.texts(refs[1]) == ["hello"]
        (objects,) = [job for job in await bench.engine.jobs() if job.job_id == bench.job_id]
        assert any(name == f"customjob-{bench.job_id}-1" for name in objects.other)
        alone = await bench.prepared(prints(1), job_id=bench.new_job())
        await bench.engine.create(alone, bench.refs(alone))
        assert not [job.other for job in await bench.engine.jobs() if job.job_id == alone.job_id and job.other]

    on_docker(test)


@docker
def test_shared_memory_is_sized_for_training_and_cpus_are_capped_to_the_host() -> None:
    async def test(bench: Bench) -> None:
        code = "import os; s=os.statvfs('/dev/shm'); print(s.f_blocks * s.f_frsize)"
        (ref,) = await launch(bench, one_pool(bench.plan(python(code)), cpus=9000.0))
        await bench.ended()
        info = await engine_of(bench)._api.info()
        (size,) = await bench.texts(ref)
        assert abs(int(size) - info["MemTotal"] / 2) < 2**20
        assert (await inspect(bench, ref))["HostConfig"]["NanoCpus"] == info["NCPU"] * 10**9

    on_docker(test)


@docker
def test_files_are_there_before_the_first_instruction() -> None:
    async def test(bench: Bench) -> None:
        plan = bench.plan(Act(("cat", "/etc/customjob/cluster.json"), sleeps().script))
        plan = replace(
            plan, replicas=(replace(plan.replicas[0], files=(("/etc/customjob/cluster.json", '{"ü": 1}\n'),)),)
        )
        (ref,) = await launch(bench, plan)
        await bench.ended()
        assert await bench.texts(ref) == ['{"ü": 1}']

    on_docker(test)


@docker
def test_a_secret_reaches_the_replica_and_no_label(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUSTOMJOB_TEST_TOKEN", "s3cr3t-value")

    async def test(bench: Bench) -> None:
        plan = secretly(
            bench.plan(python("import os; print(os.environ['TOKEN'][::-1])")), TOKEN="env:CUSTOMJOB_TEST_TOKEN"
        )
        (ref,) = await launch(bench, plan)
        await bench.ended()
        assert await bench.texts(ref) == ["eulav-t3rc3s"]
        assert "s3cr3t" not in json.dumps((await inspect(bench, ref))["Config"]["Labels"])

    on_docker(test)


# -- how replicas end -----------------------------------------------------------------------------------------------


@docker
@pytest.mark.parametrize("where", ["itself", "a child"])
def test_a_replica_that_runs_out_of_memory_says_so(where: str) -> None:
    eat = "b = bytearray(300 << 20)\nfor i in range(0, len(b), 4096): b[i] = 1"
    child = (
        f"import subprocess, sys\nsys.exit(3 if subprocess.run([sys.executable, '-c', '''{eat}''']).returncode else 0)"
    )

    async def test(bench: Bench) -> None:
        plan = one_pool(bench.plan(python(eat if where == "itself" else child)), memory_bytes=64 << 20)
        await launch(bench, replace(plan, options=JobOptions(memory_limits=True)))
        status = (await bench.ended())["workerpool0-0"]
        assert (status.phase, status.reason) == (Phase.EXITED, Reason.OOM_KILLED)
        assert status.exit_code == (137 if where == "itself" else 3)

    on_docker(test)


@docker
def test_python_as_first_process_dies_of_its_own_signal() -> None:
    """Without an init, a SIGSEGV that PID 1 sends itself is ignored, and the replica goes on to exit 0."""

    async def test(bench: Bench) -> None:
        await launch(bench, bench.plan(python("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")))
        assert (await bench.ended())["workerpool0-0"].exit_code == 139

    on_docker(test)


@docker
def test_a_missing_image_is_refused_with_what_to_do() -> None:
    async def test(bench: Bench) -> None:
        plan = with_last_pool(bench.plan(prints(1)), image="127.0.0.1:1/none:404")
        with pytest.raises(LaunchRefused, match=r"127\.0\.0\.1:1/none:404 .* image_map"):
            await bench.engine.prepare(plan, lambda line: None)

    on_docker(test)


@docker
@pytest.mark.parametrize(
    "image", ["foo bar", "foo?x=1", "../containers", "local/../py:1", "UPPER/case:1", "a" * 300, "-f"]
)
def test_what_is_no_name_of_an_image_is_refused(image: str) -> None:
    """``foo bar`` was asked for again and again, and ``../containers`` answered with a list that nothing here can read."""

    async def test(bench: Bench) -> None:
        plan = with_last_pool(bench.plan(prints(1)), image=image)
        with pytest.raises(LaunchRefused, match=r"is no name of an image \(.*\): write "):
            await bench.engine.prepare(plan, lambda line: None)

    on_docker(test)


@docker
@pytest.mark.parametrize(
    "image", [IMAGE, f"docker.io/{IMAGE}", "localhost:5000/a/b_c-d.e:V1", f"h:5/x@sha256:{'0' * 64}", "f" * 64]
)
def test_what_may_be_a_name_of_an_image_is_asked_for(image: str) -> None:
    async def test(bench: Bench) -> None:
        found = await images.find(engine_of(bench)._api, image)
        assert (found is not None) == image.endswith(IMAGE)

    on_docker(test)


@docker
@pytest.mark.parametrize("volume", ["/tmp:/data:zz", "data:relative"])
def test_a_volume_that_docker_refuses_is_refused(volume: str) -> None:
    """Docker calls it an error of its own, and it was tried again without end."""

    async def test(bench: Bench) -> None:
        plan = await bench.prepared(prints(1))
        with pytest.raises(LaunchRefused, match=r"workerpool0-0 \(image .*\) cannot be created: invalid "):
            await bench.engine.create(plan, bench.refs(plan))

    on_docker(test, DockerBackend(volumes=(volume,)))


@docker
def test_a_start_that_docker_refuses_shows_in_every_process() -> None:
    async def test(bench: Bench) -> None:
        plan = await bench.prepared(prints(1))
        (ref,) = refs = bench.refs(plan)
        await bench.engine.create(plan, refs)
        body = (await inspect(bench, ref))["Config"]
        await bench.engine.remove(refs)
        broken = {"Image": IMAGE, "Labels": body["Labels"], "Entrypoint": ["/no/such"], "HostConfig": {"Init": False}}
        api = engine_of(bench)._api
        await api.call("POST", "containers/create", what="create", params={"name": ref.name}, body=broken)
        await bench.engine.start(plan, refs)
        status = (await bench.seen())["workerpool0-0"]
        assert (status.phase, status.reason, status.exit_code) == (Phase.EXITED, Reason.START_ERROR, 127)
        assert status.message.startswith('exec: "/no/such"')
        async with asyncio.timeout(2):  # its log was waited for until it was given up
            assert [line async for line in bench.engine.logs(ref)] == []

    on_docker(test)


# -- networks -------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def another_process() -> AsyncIterator[DockerEngine]:
    """A connection that shares nothing with the first one."""
    engine = DockerEngine(DockerBackend(), await access_of(DockerBackend()))
    try:
        yield engine
    finally:
        await engine.close()


@docker
def test_a_short_command_runs_once_whoever_starts_it() -> None:
    """Regression: a second start waited for the first one's, found the container ended, and ran it again."""

    async def check(bench: Bench) -> None:
        plan, refs = await bench.created(*[prints(1)] * 12)
        async with another_process() as other:
            starters = (bench.engine, other) * 4
            await asyncio.gather(*(engine.start(plan, refs) for engine in starters))
            await bench.ended()
            await asyncio.gather(*(engine.start(plan, refs) for engine in starters))
        assert [await bench.texts(ref) for ref in refs] == [["line 0"]] * 12

    on_docker(check)


@docker
def test_a_start_that_somebody_claimed_and_died_is_made_good(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(starts, "PATIENCE", 1.0)

    async def check(bench: Bench) -> None:
        plan, refs = await bench.created(prints(1))
        async with another_process() as dead:
            assert await dead._starts._claim(refs[0])
        await bench.engine.start(plan, refs)
        await bench.ended()
        assert await bench.texts(refs[0]) == ["line 0"]

    on_docker(check)


@docker
@pytest.mark.timeout(600)
def test_sixty_jobs_get_their_networks_at_once() -> None:
    async def test(bench: Bench) -> None:
        jobs = [bench.job_id, *(bench.new_job() for _ in range(59))]
        base = await bench.prepared(prints(1), prints(1))
        plans = [replace(plan_of(job, [prints(1)] * 2, IMAGE), prepared=base.prepared) for job in jobs]
        await asyncio.gather(*(bench.engine.create(plan, bench.refs(plan)[:1]) for plan in plans))
        listed = {job.job_id: job.other for job in await bench.engine.jobs() if job.job_id in jobs}
        assert [len(listed[job]) for job in jobs] == [1] * 60

    on_docker(test)


@docker
def test_two_creators_make_one_network() -> None:
    async def test(bench: Bench) -> None:
        for _ in range(5):
            plan = await bench.prepared(prints(1), prints(1), job_id=bench.new_job())
            await asyncio.gather(*(bench.engine.create(plan, bench.refs(plan)) for _ in range(4)))
            networks = await engine_of(bench)._api.networks({"customjob.job-id": plan.job_id})
            assert len(networks) == 1

    on_docker(test)


@docker
def test_a_network_that_the_daemon_keeps_holds_no_ended_job_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Regression: the supervisor of an ended job asked for its removal for ever, and its task never returned."""
    monkeypatch.setattr("airflow_customjob.backends.docker.networks.LEAVES", 0.5)

    async def test(bench: Bench) -> None:
        plan = await bench.prepared(prints(1), prints(1))
        await bench.engine.create(plan, bench.refs(plan))
        await bench.engine.remove(bench.refs(plan))
        (network,) = await engine_of(bench)._api.networks({"customjob.job-id": plan.job_id})
        run = ["docker", "run", "--detach", "--rm", "--network", network["Id"], IMAGE, "sleep", "60"]
        stranger = (await asyncio.to_thread(subprocess.check_output, run, text=True)).strip()
        try:
            await bench.engine.release(plan.job_id)
            assert [job.other for job in await bench.engine.jobs() if job.job_id == plan.job_id] == [(network["Name"],)]
        finally:
            await asyncio.to_thread(subprocess.check_output, ["docker", "rm", "--force", stranger])
        await bench.engine.release(plan.job_id)
        assert not [job for job in await bench.engine.jobs() if job.job_id == plan.job_id]

    on_docker(test)


@docker
def test_a_range_without_a_free_subnet_queues_the_job() -> None:
    async def test(bench: Bench) -> None:
        first = await bench.prepared(prints(1), prints(1))
        await bench.engine.create(first, bench.refs(first))
        second = await bench.prepared(prints(1), prints(1), job_id=bench.new_job())
        with pytest.raises(EngineBusy, match=r"every subnet of 10\.202\.7\.0/28 is in use"):
            await bench.engine.create(second, bench.refs(second))
        await bench.engine.remove(bench.refs(first))
        await bench.engine.release(first.job_id)
        await bench.engine.create(second, bench.refs(second))

    on_docker(test, DockerBackend(subnets=("10.202.7.0/28",)))


# -- GPUs: leased on real volumes; no GPU is needed for that ---------------------------------------------------------

TWO_GPUS = DockerBackend(gpus=("test-a", "test-b"))


def wants_gpus(bench: Bench, count: int, replicas: int = 1, new: bool = True) -> JobPlan:
    job_id = bench.new_job() if new else bench.job_id
    return one_pool(bench.plan(*[prints(1)] * replicas, job_id=job_id), gpus=count)


@docker
def test_concurrent_jobs_lease_distinct_gpus() -> None:
    async def test(bench: Bench) -> None:
        gpus = engine_of(bench)._gpus
        plans = [wants_gpus(bench, 1), wants_gpus(bench, 1)]
        leased = await asyncio.gather(*(gpus.lease(plan, bench.refs(plan)) for plan in plans))
        assert sorted(ids for lease in leased for ids in lease["workerpool0-0"]) == ["test-a", "test-b"]
        assert await gpus.lease(plans[0], bench.refs(plans[0])) == leased[0], "leasing again changes nothing"
        assert await gpus.lease(plans[0], bench.refs(plans[0], restart=1)) == leased[0], "a restart keeps its device"

    on_docker(test, TWO_GPUS)


@docker
def test_a_shortage_of_gpus_queues_the_job_and_holds_nothing() -> None:
    async def test(bench: Bench) -> None:
        gpus = engine_of(bench)._gpus
        holder, waiter = wants_gpus(bench, 1), wants_gpus(bench, 1, replicas=2)
        await bench.engine.write_record(holder.job_id, "{}", if_version=0, labels={"state": "JOB_STATE_RUNNING"})
        held = await gpus.lease(holder, bench.refs(holder))
        with pytest.raises(EngineBusy, match=f"waits for 1 GPU.*{holder.job_id}"):
            await gpus.lease(waiter, bench.refs(waiter))
        assert not [job for job in await bench.engine.jobs() if job.job_id == waiter.job_id]
        await bench.engine.release(holder.job_id)
        got = await gpus.lease(waiter, bench.refs(waiter))
        assert sorted(ids[0] for ids in got.values()) == ["test-a", "test-b"]
        assert held["workerpool0-0"][0] in {ids[0] for ids in got.values()}

    on_docker(test, TWO_GPUS)


@docker
def test_more_gpus_than_the_host_has_are_refused() -> None:
    async def test(bench: Bench) -> None:
        plan = wants_gpus(bench, 3)
        with pytest.raises(LaunchRefused, match=r"asks for 3 GPUs at once .* has 2"):
            await engine_of(bench)._gpus.lease(plan, bench.refs(plan))

    on_docker(test, TWO_GPUS)


@docker
def test_gpus_of_a_job_that_vanished_are_taken_over() -> None:
    async def test(bench: Bench) -> None:
        gpus = engine_of(bench)._gpus
        vanished, ended, next_one = (wants_gpus(bench, 1) for _ in range(3))
        await gpus.lease(vanished, bench.refs(vanished))
        await bench.engine.write_record(ended.job_id, "{}", if_version=0, labels={"state": "JOB_STATE_FAILED"})
        await gpus.lease(ended, bench.refs(ended))
        both = one_pool(next_one, gpus=2)
        assert sorted((await gpus.lease(both, bench.refs(both)))["workerpool0-0"]) == ["test-a", "test-b"]

    on_docker(test, TWO_GPUS)


# -- records --------------------------------------------------------------------------------------------------------


@docker
def test_a_job_whose_record_was_pruned_is_still_listed() -> None:
    async def test(bench: Bench) -> None:
        plan, refs = await bench.created(prints(1))
        await bench.engine.write_record(bench.job_id, "x" * 400_000, if_version=0)
        (volume,) = await engine_of(bench)._api.volumes({"customjob.job-id": bench.job_id})
        await engine_of(bench)._api.remove_volume(volume["Name"])
        (job,) = [job for job in await bench.engine.jobs() if job.job_id == bench.job_id]
        assert (job.record, job.refs) == (None, tuple(refs))
        assert (await bench.seen())["workerpool0-0"].digest == plan.digest

    on_docker(test)


@docker
def test_a_deletion_that_broke_off_is_brought_to_its_end() -> None:
    async def test(bench: Bench) -> None:
        await bench.engine.write_record(bench.job_id, "old", if_version=0)
        records = engine_of(bench)._records
        sequence = records._sequence(bench.job_id)
        (old,) = await sequence.read()
        await sequence._claim(old, {"customjob.deleted": "1"})
        assert await bench.engine.read_record(bench.job_id) is None
        assert await bench.engine.write_record(bench.job_id, "new", if_version=0) == 1

    on_docker(test)


# -- connections ----------------------------------------------------------------------------------------------------


@docker
def test_jobs_share_a_connection_until_the_last_one_leaves() -> None:
    async def main() -> None:
        backend = DockerBackend()
        async with backend.open() as first:
            async with backend.open() as second, DockerBackend(shm_size="1g").open() as other:
                assert first is second
                assert other is not first
            assert await first.identity()
        async with backend.open() as later:
            assert later is not first

    asyncio.run(main())


def test_a_docker_that_does_not_answer_is_worth_another_try() -> None:
    async def main() -> None:
        async with DockerBackend(docker_url="unix:///no/such/docker.sock").open() as engine:
            with pytest.raises(EngineError, match=r"no/such/docker\.sock.*docker_url") as error:
                await engine.identity()
            assert not isinstance(error.value, LaunchRefused)

    asyncio.run(main())


def test_a_registrys_login_comes_from_the_docker_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    import base64

    from airflow_customjob.backends.docker.access import access_of, registry_auth

    monkeypatch.setenv(
        "AIRFLOW_CONN_REG",
        json.dumps(
            {
                "conn_type": "docker",
                "host": "reg.example:5000",
                "login": "me",
                "password": "hush",
                "extra": {"docker_url": "tcp://d:2376"},
            }
        ),
    )

    async def main() -> None:
        access, login = await access_of(DockerBackend(conn_id="reg"))
        assert access.url == "tcp://d:2376"
        assert "hush" not in repr(login)
        header = await registry_auth("reg.example:5000/team/image:1", login)
        assert json.loads(base64.urlsafe_b64decode(header["X-Registry-Auth"]))["password"] == "hush"
        assert await registry_auth("other.example/image:1", login) == {}

    asyncio.run(main())


def test_tls_files_make_a_connection_encrypted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    async def main() -> None:
        monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:9")
        async with DockerBackend(tls_ca_cert=str(tmp_path / "none.pem")).open():
            pass

    with pytest.raises(EngineError, match="tls_ca_cert"):
        asyncio.run(main())


@docker
def test_more_replicas_are_followed_than_a_connection_pool_holds() -> None:
    async def test(bench: Bench) -> None:
        _, (ref, *_) = await bench.launched(sleeps())
        await bench.until_it_says(ref, "ready")
        followers = [asyncio.create_task(bench.texts(ref)) for _ in range(120)]
        await asyncio.sleep(1)
        async with asyncio.timeout(20):
            await bench.engine.stop([ref], 1.0)
            assert await asyncio.gather(*followers) == [["ready"]] * 120

    on_docker(test)


@docker
def test_a_docker_behind_tls_is_reached_with_the_clients_certificate(tmp_path: Path) -> None:
    subject = ["-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    names = ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    files = ["-keyout", str(tmp_path / "key.pem"), "-out", str(tmp_path / "cert.pem")]
    subprocess.run(["openssl", "req", *subject, *names, *files], check=True, capture_output=True)
    cert, key = str(tmp_path / "cert.pem"), str(tmp_path / "key.pem")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=cert)
    context.load_cert_chain(cert, key)
    context.verify_mode = ssl.CERT_REQUIRED
    daemon = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock").removeprefix("unix://")

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, ssl.SSLError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_unix_connection(daemon)
        await asyncio.gather(pump(reader, back), pump(there, writer))

    async def main() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
        port = server.sockets[0].getsockname()[1]
        backend = DockerBackend(
            docker_url=f"tcp://127.0.0.1:{port}", tls_ca_cert=cert, tls_client_cert=cert, tls_client_key=key
        )
        async with backend.open() as engine, DockerBackend().open() as direct:
            assert await engine.identity() == await direct.identity()
        async with replace(backend, tls_client_cert=None).open() as stranger:
            with pytest.raises(EngineError):
                await stranger.identity()
        server.close()

    asyncio.run(main())
