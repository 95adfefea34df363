"""What the contract cannot ask of every engine: shims that are killed, starters that race, what is left behind."""

from __future__ import annotations

import asyncio
import fcntl
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import replace
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import pytest

from airflow_customjob.backends.base import EngineBusy, EngineError, LaunchRefused, Phase, Reason, ReplicaRef
from airflow_customjob.backends.process import ProcessBackend, replicas
from airflow_customjob.backends.process.folders import Folders
from airflow_customjob.backends.process.proc import Process, boot_id, processes, tree
from airflow_customjob.backends.process.shim import MARK
from airflow_customjob.plan.types import JobId, JobOptions, JobPlan, Prepared, Resources
from tests.backends.contract import (
    Act,
    Bench,
    ProcessAdapter,
    bench_on,
    eventually,
    following,
    plan_of,
    prints,
    sleeps,
    stubborn,
)

NOTHING = sleeps().script


@pytest.fixture
def adapter(tmp_path: Path) -> ProcessAdapter:
    return ProcessAdapter(tmp_path / "state")


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    return Folders(tmp_path / "state")


@pytest.fixture(autouse=True)
def nothing_runs_on(folders: Folders) -> Iterator[None]:
    """Whatever a test did, no process of its replicas is left."""
    yield
    assert marked(folders) == []


def on(adapter: ProcessAdapter, test: Callable[[Bench], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(100), bench_on(adapter) as bench:
            await test(bench)

    asyncio.run(main())


def shell(text: str, **env: str) -> Act:
    return Act(("sh", "-c", text), NOTHING, env=tuple(env.items()))


def python(code: str) -> Act:
    return Act(("python3", "-c", code), NOTHING)


def marked(folders: Folders) -> list[int]:
    """Every live process of a replica below this state folder."""
    mark = f"{MARK}={folders.root}".encode()
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if mark in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def popen(*command: str, **how: Any) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, **how)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] not in (b"Z", b"X")
    except OSError:
        return False


def below(pid: int) -> list[Process]:
    return tree(processes(), pid)


def shim_pid(folders: Folders, ref: ReplicaRef) -> int:
    pid = replicas.holder(folders.replica(ref) / "claim")
    assert pid is not None
    return pid


# -- the shim dies ----------------------------------------------------------------------------------------------------


def test_a_killed_shim_is_a_lost_replica_and_its_processes_are_ended(adapter: ProcessAdapter, folders: Folders) -> None:
    """Also those that took a session of their own, and those that cleared their environment."""

    async def check(bench: Bench) -> None:
        start = "setsid sleep 1001 & env -i sleep 1002 & (trap '' TERM; sleep 1003) & echo ready; sleep 1004"
        _, (ref,) = await bench.launched(shell(start))
        await bench.until_it_says(ref, "ready")
        session = shim_pid(folders, ref)
        mine = {process.pid for process in below(session)}
        assert len(mine) >= 5
        os.kill(session, signal.SIGKILL)
        status = (await bench.ended())["workerpool0-0"]
        assert (status.phase, status.reason, status.exit_code) == (Phase.LOST, Reason.LOST, None)
        assert "killed" in status.message
        assert not any(map(alive, mine))
        assert [s.phase for s in await bench.other.observe(bench.job_id)] == [Phase.LOST]
        assert (await bench.seen())["workerpool0-0"] == status, "its ending is the same for every observer"
        assert await bench.texts(ref) == ["ready"]

    on(adapter, check)


def test_what_hides_in_its_own_session_without_environment_outlives_only_a_killed_shim(
    adapter: ProcessAdapter, folders: Folders
) -> None:
    """The limit of what can be told apart: with its shim alive it is ended, without it, it stays."""
    hide = "setsid env -i sleep 1005 & sleep 0.3; echo ready; sleep 1006"

    async def check(bench: Bench) -> None:
        _, (ref,) = await bench.launched(shell(hide))
        await bench.until_it_says(ref, "ready")
        hidden = [p.pid for p in below(shim_pid(folders, ref)) if _command(p.pid) == "sleep 1005"]
        await bench.engine.remove([ref])
        assert hidden
        assert not any(map(alive, hidden))

        again = replace(ref, restart=1)
        plan = bench.plan(shell(hide))
        await bench.engine.create(plan, [again])
        await bench.engine.start(plan, [again])
        await bench.until_it_says(again, "ready")
        shim = shim_pid(folders, again)
        hidden = [p.pid for p in below(shim) if _command(p.pid) == "sleep 1005"]
        os.kill(shim, signal.SIGKILL)
        await bench.ended()
        assert all(map(alive, hidden))
        for pid in hidden:
            os.kill(pid, signal.SIGKILL)

    on(adapter, check)


def _command(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ").strip()


def test_watchers_and_followers_hear_of_a_killed_shim_at_once(adapter: ProcessAdapter, folders: Folders) -> None:
    async def check(bench: Bench) -> None:
        _, (ref,) = await bench.launched(stubborn())
        await bench.until_it_says(ref, "ready")
        async with bench.engine.watch(bench.job_id) as items, following(bench, ref) as lines:
            await asyncio.sleep(0.3)
            os.kill(shim_pid(folders, ref), signal.SIGKILL)
            async with asyncio.timeout(3):
                async for _ in items:
                    if (await bench.seen())["workerpool0-0"].ended:
                        break
        assert [line.text for line in lines] == ["ready"]

    on(adapter, check)


def test_removing_needs_no_shim(adapter: ProcessAdapter, folders: Folders) -> None:
    async def check(bench: Bench) -> None:
        _, (ref,) = await bench.launched(stubborn())
        await bench.until_it_says(ref, "ready")
        os.kill(shim_pid(folders, ref), signal.SIGKILL)
        await bench.engine.remove([ref])
        assert marked(folders) == []
        assert not await bench.engine.observe(bench.job_id)

    on(adapter, check)


def test_deleting_the_state_folder_ends_what_runs(adapter: ProcessAdapter, folders: Folders) -> None:
    """Nobody could find it any more: it would run for ever."""

    async def check(bench: Bench) -> None:
        _, refs = await bench.launched(stubborn(), shell("cd /; echo ready; sleep 1010"))
        for ref in refs:
            await bench.until_it_says(ref, "ready")
        shims = [shim_pid(folders, ref) for ref in refs]
        await asyncio.to_thread(shutil.rmtree, folders.jobs)
        await eventually(lambda: not any(map(alive, shims)))
        assert marked(folders) == []

    on(adapter, check)


def test_a_frozen_shim_does_not_hold_up_a_stop(
    adapter: ProcessAdapter, folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replicas, "KILL_PATIENCE", 0.3)

    async def check(bench: Bench) -> None:
        _, (ref,) = await bench.launched(sleeps())
        await bench.until_it_says(ref, "ready")
        os.kill(shim_pid(folders, ref), signal.SIGSTOP)
        await bench.engine.stop([ref], 0.2)
        assert (await bench.seen())["workerpool0-0"].phase is Phase.LOST
        assert marked(folders) == []

    on(adapter, check)


def test_after_a_reboot_what_ran_is_lost(adapter: ProcessAdapter, folders: Folders) -> None:
    """The claim is there and nobody holds it; its numbers mean other processes now."""

    async def check(bench: Bench) -> None:
        _, (ref,) = await bench.created(sleeps())
        innocent = popen("sleep", "1007", start_new_session=True)
        try:
            _claim(folders, ref, innocent.pid, boot="another boot")
            assert (await bench.seen())["workerpool0-0"].phase is Phase.LOST
            await bench.engine.stop([ref], 0.1)
            await bench.engine.remove([ref])
            assert innocent.poll() is None
        finally:
            innocent.kill()
            innocent.wait()

    on(adapter, check)


@pytest.mark.parametrize("leads_a_session", [True, False])
def test_a_reused_process_id_belongs_to_somebody_else(
    adapter: ProcessAdapter, folders: Folders, leads_a_session: bool
) -> None:
    async def check(bench: Bench) -> None:
        _, (ref,) = await bench.created(sleeps())
        innocent = popen("sh", "-c", "sleep 1008 & wait", start_new_session=leads_a_session)
        try:
            while not below(innocent.pid):  # its child, which it may be late with
                await asyncio.sleep(0.02)
            _claim(folders, ref, innocent.pid, boot=boot_id())
            await bench.engine.stop([ref], 0.1)
            assert (await bench.seen())["workerpool0-0"].phase is Phase.LOST
            await bench.engine.remove([ref])
            assert innocent.poll() is None
            assert len(below(innocent.pid)) == 1
        finally:
            for process in (*below(innocent.pid),):
                os.kill(process.pid, signal.SIGKILL)
            innocent.kill()
            innocent.wait()

    on(adapter, check)


def _claim(folders: Folders, ref: ReplicaRef, pid: int, boot: str) -> None:
    text = json.dumps({"pid": pid, "boot": boot, "at": time.time() - 100})
    (folders.replica(ref) / "claim").write_text(text)


def test_a_claim_that_a_loss_of_power_cut_short_is_a_lost_replica(adapter: ProcessAdapter, folders: Folders) -> None:
    async def check(bench: Bench) -> None:
        _, (ref,) = await bench.created(sleeps())
        (folders.replica(ref) / "claim").write_text("")
        assert (await bench.seen())["workerpool0-0"].phase is Phase.LOST

    on(adapter, check)


# -- who starts -------------------------------------------------------------------------------------------------------


def _start_in_process(arguments: tuple[str, JobPlan, list[ReplicaRef]]) -> None:
    folder, plan, refs = arguments

    async def main() -> None:
        async with ProcessBackend(state_folder=folder).open() as engine:
            await engine.create(plan, refs)
            await engine.start(plan, refs)

    asyncio.run(main())


def test_many_processes_may_start_the_same_and_it_runs_once(
    adapter: ProcessAdapter, folders: Folders, tmp_path: Path
) -> None:
    count = tmp_path / "count"
    plan = plan_of(JobId("123456789012345678"), [shell(f"echo x >> {count}; sleep 0.2")] * 4, "none")

    async def check(bench: Bench) -> None:
        bench._jobs.append(plan.job_id)
        refs = bench.refs(plan)
        with multiprocessing.get_context("spawn").Pool(4) as pool:
            work = [(str(folders.root), plan, refs)] * 8
            await asyncio.to_thread(pool.map, _start_in_process, work, 1)
        bench.job_id = plan.job_id
        ended = await bench.ended()
        assert len(ended) == 4
        assert {status.exit_code for status in ended.values()} == {0}
        assert count.read_text().split() == ["x"] * 4

    on(adapter, check)


def test_a_replica_outlives_who_started_it(adapter: ProcessAdapter, folders: Folders, tmp_path: Path) -> None:
    plan = plan_of(JobId("123456789012345679"), [prints(20, code=5, every=0.05)], "none")

    async def check(bench: Bench) -> None:
        bench._jobs.append(plan.job_id)
        (ref,) = bench.refs(plan)
        starter = multiprocessing.get_context("spawn").Process(
            target=_start_and_hang, args=((str(folders.root), plan, [ref]),)
        )
        starter.start()
        await eventually(lambda: bench.engine.observe(plan.job_id))
        await bench.until_it_says(ref, "line 0")
        assert starter.pid
        os.kill(starter.pid, signal.SIGKILL)
        await asyncio.to_thread(starter.join)
        bench.job_id = plan.job_id
        assert (await bench.ended())["workerpool0-0"].exit_code == 5
        assert await bench.texts(ref) == [f"line {number}" for number in range(20)]

    on(adapter, check)


def _start_and_hang(arguments: tuple[str, JobPlan, list[ReplicaRef]]) -> None:
    _start_in_process(arguments)
    time.sleep(1000)


def test_a_start_that_comes_after_a_removal_runs_nothing(adapter: ProcessAdapter, folders: Folders) -> None:
    """The shim was told of a folder that is gone when it looks."""

    async def check(bench: Bench) -> None:
        _, (ref,) = await bench.created(sleeps())
        await bench.engine.remove([ref])
        await asyncio.to_thread(replicas.start, folders, [ref], {})
        assert not await bench.engine.observe(bench.job_id)
        assert marked(folders) == []

    on(adapter, check)


def test_what_is_started_while_it_is_removed_does_not_stay(adapter: ProcessAdapter, folders: Folders) -> None:
    async def check(bench: Bench) -> None:
        plan = await bench.prepared(*[sleeps()] * 3)
        for restart in range(15):
            refs = bench.refs(plan, restart=restart)
            await bench.engine.create(plan, refs)

            async def remove(pause: float, refs: list[ReplicaRef] = refs) -> None:
                await asyncio.sleep(pause)
                await bench.other.remove(refs)

            await asyncio.gather(bench.engine.start(plan, refs), remove(restart * 0.008))
            assert not await bench.engine.observe(bench.job_id)
            await eventually(lambda: not marked(folders))

    on(adapter, check)


def test_an_interpreter_that_cannot_start_shims_is_an_engine_error(
    adapter: ProcessAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def check(bench: Bench) -> None:
        plan, refs = await bench.created(prints(1))
        with monkeypatch.context() as patch:
            patch.setattr(sys, "executable", "/bin/false")
            with pytest.raises(EngineError, match="/bin/false"):
                await bench.engine.start(plan, refs)
        await bench.engine.start(plan, refs)
        assert (await bench.ended())["workerpool0-0"].exit_code == 0

    on(adapter, check)


def test_a_replica_that_cannot_be_claimed_is_an_engine_error(adapter: ProcessAdapter, folders: Folders) -> None:
    """Not silence: a supervisor would start it again at once, for ever."""

    async def check(bench: Bench) -> None:
        plan, refs = await bench.created(prints(1), prints(1))
        event = folders.events / refs[0].name
        event.unlink()
        event.mkdir()
        with pytest.raises(EngineError, match="Is a directory"):
            await bench.engine.start(plan, refs)
        event.rmdir()
        await bench.engine.start(plan, refs)
        assert {status.exit_code for status in (await bench.ended()).values()} == {0}

    on(adapter, check)


# -- what a replica gets ----------------------------------------------------------------------------------------------


def test_a_replica_gets_none_of_its_starters_secrets(
    adapter: ProcessAdapter, folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", "postgresql://airflow:pa55word@db/airflow")
    monkeypatch.setenv("PYTHONPATH", "/ours")
    monkeypatch.setenv("TZ", "Europe/Berlin")

    async def check(bench: Bench) -> None:
        _, (ref,) = await bench.launched(shell("env"))
        env = dict(line.partition("=")[::2] for line in await bench.texts(ref))
        assert not [name for name in env if name.startswith(("AIRFLOW", "PYTHONPATH"))]
        assert env["TZ"] == "Europe/Berlin"
        assert env["PATH"] == os.environ["PATH"]
        assert env["CLOUD_ML_JOB_ID"] == bench.job_id
        assert env[MARK] == str(folders.replica(ref))

    on(adapter, check)


def test_its_own_environment_wins_over_the_hosts(adapter: ProcessAdapter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Europe/Berlin")

    async def check(bench: Bench) -> None:
        _, (ref,) = await bench.launched(shell('echo "$TZ $PYTHONUNBUFFERED"', TZ="UTC", PYTHONUNBUFFERED=""))
        assert await bench.texts(ref) == ["UTC "]

    on(adapter, check)


def test_it_works_in_a_folder_of_its_own(adapter: ProcessAdapter, folders: Folders) -> None:
    async def check(bench: Bench) -> None:
        _, refs = await bench.launched(*[shell("pwd; ls; touch mine")] * 2)
        await bench.ended()
        for ref in refs:
            assert await bench.texts(ref) == [str(folders.replica(ref) / "work")]
        await bench.engine.remove(refs)
        assert not folders.replica(refs[0]).exists()

    on(adapter, check)


def test_its_signals_are_as_a_program_expects_them(adapter: ProcessAdapter) -> None:
    """A shim ignores some; a program that inherited that would not end with its pipe."""

    async def check(bench: Bench) -> None:
        _, (ref,) = await bench.launched(shell("grep -E '^Sig(Ign|Blk)' /proc/self/status; yes | head -1"))
        blocked, ignored, last = await bench.texts(ref)
        of_the_threads_library = 1 << 31 | 1 << 32
        assert [int(line.split()[1], 16) & ~of_the_threads_library for line in (blocked, ignored)] == [0, 0]
        assert last == "y"

    on(adapter, check)


def test_files_are_written_and_their_variables_lead_there(adapter: ProcessAdapter) -> None:
    async def check(bench: Bench) -> None:
        path, content = "/var/run/customjob/cluster_spec.json", '{"Grüße": 1}'
        plan = await bench.prepared(shell(f'cat "$CLUSTER_SPEC_FILE"; cat {path}', CLUSTER_SPEC_FILE=path))
        plan = replace(plan, replicas=(replace(plan.replicas[0], files=((path, content),)),))
        (ref,) = bench.refs(plan)
        await bench.engine.create(plan, [ref])
        await bench.engine.start(plan, [ref])
        assert await bench.texts(ref) == [content * 2]

    on(adapter, check)


def test_a_secret_reaches_its_replica_and_no_file(
    adapter: ProcessAdapter, folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOKEN_OF_THE_WORKER", "s3cret-value")

    async def check(bench: Bench) -> None:
        plan = await bench.prepared(shell('echo "$TOKEN" | rev; exec sleep 1000'))
        plan = replace(plan, options=replace(plan.options, secret_env=(("TOKEN", "env:TOKEN_OF_THE_WORKER"),)))
        (ref,) = bench.refs(plan)
        await bench.engine.create(plan, [ref])
        await bench.engine.start(plan, [ref])
        await bench.until_it_says(ref, "eulav-terc3s")
        kept = [path for path in folders.root.rglob("*") if path.is_file()]
        assert kept
        assert not [path for path in kept if b"s3cret-value" in path.read_bytes()]
        (rendered,) = adapter.backend().render(plan)
        assert rendered["env"]["TOKEN"] == "<env:TOKEN_OF_THE_WORKER>"

    on(adapter, check)


def test_a_secret_that_cannot_be_had_is_refused_before_anything_exists(adapter: ProcessAdapter) -> None:
    async def check(bench: Bench) -> None:
        plan = await bench.prepared(prints(1))
        plan = replace(plan, options=JobOptions(secret_env=(("TOKEN", "env:NO_SUCH_VARIABLE"),)))
        with pytest.raises(LaunchRefused, match="NO_SUCH_VARIABLE"):
            await bench.engine.create(plan, bench.refs(plan))
        assert not await bench.engine.observe(bench.job_id)

    on(adapter, check)


# -- how it ends ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "mode", "code", "words"),
    [
        ("gone", None, 0, 127, "does not exist"),
        ("plain", "#!/bin/sh\n", 0o644, 126, "may not be executed"),
        ("bad", "#!/no/such/interpreter\n", 0o755, 127, "its interpreter"),
        ("nothing", "exit 0\n", 0o755, 126, "no program that this host can run"),
    ],
)
@pytest.mark.parametrize("by_path", [True, False], ids=["by path", "on PATH"])
def test_a_command_that_cannot_start_says_why(
    adapter: ProcessAdapter,
    tmp_path: Path,
    name: str,
    content: str | None,
    mode: int,
    code: int,
    words: str,
    by_path: bool,
) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
        (tmp_path / name).chmod(mode)
    command = str(tmp_path / name) if by_path else name

    async def check(bench: Bench) -> None:
        await bench.launched(Act((command,), NOTHING, env=(("PATH", f"/usr/bin:{tmp_path}"),)))
        status = (await bench.ended())["workerpool0-0"]
        assert (status.phase, status.reason, status.exit_code) == (Phase.EXITED, Reason.START_ERROR, code)
        assert repr(command) in status.message
        assert words in status.message

    on(adapter, check)


def test_what_a_command_leaves_behind_ends_with_it(adapter: ProcessAdapter, folders: Folders) -> None:
    """As with a container: also what has a session of its own, ignores signals, and holds the log's pipe open."""

    async def check(bench: Bench) -> None:
        leave = "setsid sh -c \"trap '' TERM HUP; while :; do sleep 0.1; done\" & (sleep 1009 &) ; echo bye; exit 3"
        _, (ref,) = await bench.launched(shell(leave))
        assert (await bench.ended())["workerpool0-0"].exit_code == 3
        assert await bench.texts(ref) == ["bye"]
        assert marked(folders) == []

    on(adapter, check)


def test_orphans_are_no_zombies_while_the_command_runs(adapter: ProcessAdapter, folders: Folders) -> None:
    async def check(bench: Bench) -> None:
        _, (ref,) = await bench.launched(
            shell("for i in 1 2 3 4; do (sleep 0.01 &); done; sleep 0.5; echo ready; sleep 1000")
        )
        await bench.until_it_says(ref, "ready")
        assert not [process for process in below(shim_pid(folders, ref)) if process.zombie]

    on(adapter, check)


def _memory_cgroup(name: str) -> tuple[Path, str]:
    """A folder to make a control group in, and the name of its limit."""
    for folder, limit in (("memory", "memory.limit_in_bytes"), ("unified", "memory.max"), ("", "memory.max")):
        group = Path("/sys/fs/cgroup") / folder / name
        try:
            group.mkdir()
        except OSError:
            continue
        if (group / limit).exists():
            return group, limit
        group.rmdir()
    pytest.skip("control groups for memory cannot be made here")


def test_being_killed_for_memory_is_told_from_being_killed(adapter: ProcessAdapter) -> None:
    group, limit = _memory_cgroup(f"customjob-test-{os.getpid()}")
    eat = (
        f"import os; open('{group}/cgroup.procs', 'w').write(str(os.getpid())); print('in', flush=True)\n"
        "kept = [bytearray(os.urandom(1 << 20)) for _ in range(400)]"
    )

    async def check(bench: Bench) -> None:
        (group / limit).write_text(str(40 * 2**20))
        await bench.launched(python(eat), shell("kill -9 $$"))
        ended = await bench.ended()
        assert {status.exit_code for status in ended.values()} == {137}
        assert ended["workerpool0-0"].reason is Reason.OOM_KILLED
        assert "memory" in ended["workerpool0-0"].message

    try:
        on(adapter, check)
    finally:
        group.rmdir()


def test_a_full_disk_does_not_cost_the_ending(adapter: ProcessAdapter, folders: Folders) -> None:
    folders.root.mkdir(parents=True)
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=400k", "customjob-test", str(folders.root)], check=False
    )
    if mount.returncode:
        pytest.skip("a small file system cannot be mounted here")

    async def check(bench: Bench) -> None:
        _, (ref,) = await bench.launched(
            shell("echo before; sleep 1; head -c 10000000 /dev/zero > fill; echo lost; exit 3")
        )
        status = (await bench.ended())["workerpool0-0"]
        assert (status.phase, status.exit_code) == (Phase.EXITED, 3)
        assert (await bench.texts(ref))[0] == "before"

    try:
        on(adapter, check)
    finally:
        subprocess.run(["umount", str(folders.root)], check=True)


def test_usage_counts_the_whole_tree(adapter: ProcessAdapter) -> None:
    async def check(bench: Bench) -> None:
        hold = "x = bytearray(60 << 20)\nwhile True: pass"
        _, (ref,) = await bench.launched(shell(f"python3 -c '{hold}' & echo ready; wait"))
        await bench.until_it_says(ref, "ready")
        await bench.engine.usage(bench.job_id)
        await asyncio.sleep(1.5)
        (sample,) = await bench.engine.usage(bench.job_id)
        assert sample.memory_bytes > 60 << 20
        assert 0.01 < sample.cpus < 2.5

    on(adapter, check)


# -- what is left, and what is shared ---------------------------------------------------------------------------------


def test_leftovers_of_dead_processes_break_nothing_and_go_with_the_job(
    adapter: ProcessAdapter, folders: Folders
) -> None:
    async def check(bench: Bench) -> None:
        plan = await bench.prepared(prints(1))
        (ref,) = bench.refs(plan)
        inside = folders.replicas(bench.job_id)
        for left in (".new-abc", f".gone-{ref.name}-00ff", "what is this"):
            (inside / left / "work").mkdir(parents=True)
        (folders.job(bench.job_id) / ".record.json-xyz").write_text("half a rec")
        (folders.events / replace(ref, restart=9).name).touch()
        (jobs,) = [job for job in await bench.engine.jobs() if job.job_id == bench.job_id]
        assert len(jobs.other) == 3
        await bench.engine.create(plan, [ref])
        await bench.engine.start(plan, [ref])
        assert (await bench.ended())["workerpool0-0"].exit_code == 0
        await bench.engine.remove([ref])
        await bench.engine.release(bench.job_id)
        assert not folders.job(bench.job_id).exists()
        assert not list(folders.events.iterdir())
        assert not [path for path in folders.ports.iterdir() if path.name.endswith(bench.job_id)]

    on(adapter, check)


def test_jobs_at_once_get_different_ports_until_they_are_released(adapter: ProcessAdapter, folders: Folders) -> None:
    async def check(bench: Bench) -> None:
        plans = [bench.plan(prints(1), prints(1), job_id=bench.new_job()) for _ in range(20)]
        prepared = await asyncio.gather(
            *((bench.engine, bench.other)[i % 2].prepare(plan, lambda line: None) for i, plan in enumerate(plans))
        )
        ports = [port for one in prepared for port in one.ports]
        assert len(ports) == 20 * 3
        assert len(set(ports)) == len(ports)
        assert len(list(folders.ports.glob("[0-9]*"))) == len(ports)
        for plan in plans:
            await bench.engine.release(plan.job_id)
        assert not list(folders.ports.glob("[0-9]*"))

    on(adapter, check)


def test_a_port_that_is_listened_on_is_not_given(folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    from airflow_customjob.backends.process import leases

    folders.make()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        monkeypatch.setattr(leases, "FIRST_PORT", port)
        monkeypatch.setattr(leases, "_first_outgoing", lambda: port + 1)
        with pytest.raises(EngineBusy, match="free ports"):
            leases.choose_ports(folders, JobId("1"), 1)
    assert leases.choose_ports(folders, JobId("1"), 1) == (port,)
    with pytest.raises(EngineBusy):
        leases.choose_ports(folders, JobId("2"), 1)
    os.utime(folders.ports / f"{port}.1", (0, 0))
    assert leases.choose_ports(folders, JobId("2"), 1) == (port,), "a job that never came to be gives it back"


def gpu_plan(job_id: str, replica_count: int, gpus: int) -> JobPlan:
    plan = plan_of(JobId(job_id), [shell("echo gpus=$CUDA_VISIBLE_DEVICES; sleep 1000")] * replica_count, "none")
    return replace(plan, pools=tuple(replace(pool, resources=Resources(gpus=gpus)) for pool in plan.pools))


def test_gpus_are_leased_to_live_replicas_only(tmp_path: Path) -> None:
    backend = ProcessBackend(state_folder=str(tmp_path / "state"), gpus=("0", "1", "GPU-2"))

    async def main() -> None:
        async with backend.open() as engine:
            first, second, third = gpu_plan("101", 2, 1), gpu_plan("102", 1, 2), gpu_plan("103", 1, 0)

            def refs(plan: JobPlan) -> list[ReplicaRef]:
                return [ReplicaRef(plan.job_id, 1, 0, replica.name, 0) for replica in plan.replicas]

            async def says(ref: ReplicaRef) -> str:
                async for line in engine.logs(ref):
                    return line.text
                return ""

            await engine.create(first, refs(first))
            await engine.start(first, refs(first))
            assert [await says(ref) for ref in refs(first)] == ["gpus=0", "gpus=1"]
            with pytest.raises(EngineBusy, match="2 of this host's 3 GPUs"):
                await engine.create(second, refs(second))
            assert not await engine.observe(second.job_id)
            await engine.create(first, refs(first))

            await engine.create(third, refs(third))
            await engine.start(third, refs(third))
            assert await says(refs(third)[0]) == "gpus=", "who leased none sees none"

            await engine.stop(refs(first)[:1], 1.0)
            await engine.create(second, refs(second))
            await engine.start(second, refs(second))
            assert await says(refs(second)[0]) == "gpus=0,GPU-2"

            never = gpu_plan("104", 2, 2)
            with pytest.raises(LaunchRefused, match="4 GPUs, and this backend has 3"):
                await engine.create(never, refs(never))
            for plan in (first, second, third, never):
                await engine.remove(refs(plan))
                await engine.release(plan.job_id)
            assert not await engine.jobs()

    asyncio.run(main())


def test_two_who_lease_at_once_share_nothing(tmp_path: Path) -> None:
    backend = ProcessBackend(state_folder=str(tmp_path / "state"), gpus=("0", "1", "2", "3"))

    async def main() -> None:
        async with backend.open() as engine:
            plans = [gpu_plan(str(number), 1, 1) for number in range(201, 207)]
            results = await asyncio.gather(
                *(engine.create(plan, [ReplicaRef(plan.job_id, 1, 0, "workerpool0-0", 0)]) for plan in plans),
                return_exceptions=True,
            )
            assert sorted(type(result).__name__ for result in results) == ["EngineBusy"] * 2 + ["NoneType"] * 4
            devices = [json.loads(path.read_text())["gpus"] for path in (tmp_path / "state").rglob("request.json")]
            assert sorted(devices) == [["0"], ["1"], ["2"], ["3"]]

    asyncio.run(main())


# -- records ----------------------------------------------------------------------------------------------------------


def _all_at_once(barrier: Barrier) -> None:
    barrier.wait(60)


def _count_up(arguments: tuple[str, int]) -> int:
    folder, times = arguments

    async def main() -> int:
        from airflow_customjob.backends.base import RecordConflict

        conflicts = 0
        async with ProcessBackend(state_folder=folder).open() as engine:
            done = 0
            while done < times:
                stored = await engine.read_record(JobId("77"))
                number, version = (int(stored.data), stored.version) if stored else (0, 0)
                try:
                    await engine.write_record(JobId("77"), str(number + 1), if_version=version)
                except RecordConflict:
                    conflicts += 1
                else:
                    done += 1
        return conflicts

    return asyncio.run(main())


def test_no_write_of_any_process_is_lost(adapter: ProcessAdapter, folders: Folders) -> None:
    spawned = multiprocessing.get_context("spawn")
    with spawned.Pool(3, initializer=_all_at_once, initargs=(spawned.Barrier(3),)) as pool:
        conflicts = pool.map(_count_up, [(str(folders.root), 20)] * 3, 1)

    async def check(bench: Bench) -> None:
        bench._jobs.append(JobId("77"))
        stored = await bench.engine.read_record(JobId("77"))
        assert stored is not None
        assert stored.data == "60"
        assert sum(conflicts) > 0

    on(adapter, check)


def test_versions_of_an_earlier_record_do_not_come_again(adapter: ProcessAdapter) -> None:
    async def check(bench: Bench) -> None:
        old = await bench.engine.write_record(bench.job_id, "old", if_version=0)
        await bench.engine.delete_record(bench.job_id, if_version=old)
        assert await bench.engine.write_record(bench.job_id, "new", if_version=0) > old

    on(adapter, check)


def test_a_writer_that_died_holding_the_lock_is_no_hindrance_and_a_frozen_one_is_named(
    adapter: ProcessAdapter, folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    from airflow_customjob.backends.process import folders as module

    monkeypatch.setattr(module, "LOCK_PATIENCE", 0.3)

    async def check(bench: Bench) -> None:
        version = await bench.engine.write_record(bench.job_id, "one", if_version=0)
        lock = folders.job(bench.job_id) / "lock"
        hold = f"import fcntl, time; f = open({str(lock)!r}); fcntl.flock(f, fcntl.LOCK_EX); print(flush=True); time.sleep(99)"
        holder = popen(sys.executable, "-c", hold, stdout=subprocess.PIPE)
        assert holder.stdout
        holder.stdout.readline()
        with pytest.raises(EngineError, match="frozen"):
            await bench.other.write_record(bench.job_id, "two", if_version=version)
        holder.kill()
        holder.wait()
        holder.stdout.close()
        assert await bench.other.write_record(bench.job_id, "two", if_version=version) == version + 1

    on(adapter, check)


def test_a_lock_whose_file_was_removed_is_not_held_by_two(folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last holder removes it while the next has it open already."""
    from airflow_customjob.backends.process import folders as module

    folders.make()
    path = folders.root / "a lock"
    lock, calls = module.try_lock, []

    def removed_before_it_is_locked(file: int) -> bool:
        calls.append(file)
        if len(calls) == 1:
            path.unlink()
        return lock(file)

    monkeypatch.setattr(module, "try_lock", removed_before_it_is_locked)
    with module.locked(path), path.open() as file, pytest.raises(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert len(calls) == 2


# -- configuration ----------------------------------------------------------------------------------------------------


def test_the_state_folder_is_where_the_user_keeps_state(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("AIRFLOW__CUSTOMJOB__PROCESS_DIR", raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert ProcessBackend().folders.root == tmp_path / "airflow-customjob" / "processes"
    monkeypatch.setenv("XDG_STATE_HOME", "")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert ProcessBackend().folders.root == tmp_path / "home/.local/state/airflow-customjob/processes"
    monkeypatch.setenv("AIRFLOW__CUSTOMJOB__PROCESS_DIR", str(tmp_path / "configured"))
    assert ProcessBackend().folders.root == tmp_path / "configured"
    assert ProcessBackend(state_folder="/given").folders.root == Path("/given")


def test_only_what_is_not_default_is_serialized() -> None:
    from airflow_customjob.backends import backend_of

    assert ProcessBackend().serialize() == {"name": "process"}
    backend = ProcessBackend(state_folder="/s", gpus=("0",), requirements=("numpy",))
    assert backend.serialize() == {"name": "process", "state_folder": "/s", "gpus": ["0"], "requirements": ["numpy"]}
    assert backend_of(backend.serialize()) == backend


def test_a_state_folder_that_cannot_be_used_is_an_engine_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    async def main() -> None:
        with pytest.raises(EngineError, match="state_folder"):
            async with ProcessBackend(state_folder=str(tmp_path / "file")).open():
                pass

    asyncio.run(main())


def test_what_the_kernel_refuses_is_an_engine_error(adapter: ProcessAdapter, folders: Folders) -> None:
    async def check(bench: Bench) -> None:
        folders.job(bench.job_id).touch()
        with pytest.raises(EngineError, match=bench.job_id):
            await bench.engine.write_record(bench.job_id, "data", if_version=0)
        plan = bench.plan(prints(1))
        with pytest.raises(EngineError, match=bench.job_id):
            await bench.engine.create(plan, bench.refs(plan))
        folders.job(bench.job_id).unlink()

    on(adapter, check)


def test_engines_are_told_apart_by_their_folder_and_shared_within_a_loop(tmp_path: Path) -> None:
    async def main() -> None:
        one, two = (ProcessBackend(state_folder=str(tmp_path / name)) for name in ("one", "two"))
        async with one.open() as first, one.open() as same, two.open() as other:
            assert first is same
            assert await first.identity() != await other.identity()
        async with one.open() as later:
            assert later is not first
            assert not await later.jobs()

    asyncio.run(main())
    asyncio.run(main())


def test_rendering_touches_nothing(tmp_path: Path) -> None:
    backend = ProcessBackend(state_folder=str(tmp_path / "state"))
    plan = replace(plan_of(JobId("5"), [prints(1)], "none"), prepared=Prepared({"0": "/environment"}, (1, 2)))
    (rendered,) = backend.render(plan)
    assert rendered["argv"] == list(prints(1).command)
    assert rendered["env"]["VIRTUAL_ENV"] == "/environment"
    assert not (tmp_path / "state").exists()
