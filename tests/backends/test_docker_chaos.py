"""A Docker daemon that is restarted or killed under running replicas."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from airflow_customjob.backends.base import EngineError, Phase, Reason
from tests.backends.contract import Act, Bench, DockerAdapter, bench_on, eventually, following, polite, prints, sleeps
from tests.engines import OwnDocker

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(300)]

HOW = [pytest.param(True, id="gracefully"), pytest.param(False, id="by SIGKILL")]


def run(test: Callable[[Bench], Coroutine[Any, Any, None]], tmp_path: Path) -> None:
    async def main() -> None:
        async with asyncio.timeout(200), bench_on(DockerAdapter(tmp_path)) as bench:
            await test(bench)

    asyncio.run(main())


async def restart(docker: OwnDocker, gracefully: bool) -> None:
    if not gracefully:
        await asyncio.to_thread(docker.kill)
    await asyncio.to_thread(docker.restart if gracefully else docker.up)


@pytest.mark.parametrize("gracefully", HOW)
def test_what_a_daemon_takes_down_with_it_is_lost_and_never_a_success(
    own_docker: OwnDocker, tmp_path: Path, gracefully: bool
) -> None:
    """A replica that handles SIGTERM reads as exit 0 after a graceful restart."""

    async def test(bench: Bench) -> None:
        _, refs = await bench.launched(polite(0, 0.0), sleeps())
        for ref in refs:
            await bench.until_it_says(ref, "ready")
        await restart(own_docker, gracefully)
        ended = await bench.ended()
        assert {(s.phase, s.exit_code, s.reason) for s in ended.values()} == {(Phase.LOST, None, Reason.LOST)}
        assert all("restarted" in s.message for s in ended.values())
        async with bench.adapter.backend().open() as again:
            assert {s.ref.replica: s for s in await again.observe(bench.job_id)} == ended

    run(test, tmp_path)


@pytest.mark.parametrize("gracefully", HOW)
def test_what_ended_before_a_restart_keeps_its_ending_for_whoever_asks_later(
    own_docker: OwnDocker, tmp_path: Path, gracefully: bool
) -> None:
    async def first(bench: Bench) -> None:
        await bench.launched(prints(1), prints(1, code=3), sleeps())
        before = await bench.until(lambda seen: seen["workerpool0-0"].ended and seen["workerpool1-0"].ended)
        await restart(own_docker, gracefully)
        bench.engine._statuses._endings.clear()  # type: ignore[attr-defined]  # as another process would ask
        after = await bench.until(lambda seen: seen["workerpool2-0"].ended)
        assert after["workerpool0-0"] == before["workerpool0-0"]
        assert after["workerpool1-0"] == before["workerpool1-0"]
        assert after["workerpool2-0"].phase is Phase.LOST

    run(first, tmp_path)


def test_an_end_during_the_outage_is_lost(own_docker: OwnDocker, tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        await bench.launched(prints(20, every=0.1))
        await asyncio.sleep(0.5)
        await asyncio.to_thread(own_docker.kill)
        await asyncio.sleep(3)
        await asyncio.to_thread(own_docker.up)
        ended = await bench.ended()
        assert ended["workerpool0-0"].phase is Phase.LOST

    run(test, tmp_path)


def test_a_supervisor_that_looks_on_never_sees_a_success_while_the_daemon_goes_down(
    own_docker: OwnDocker, tmp_path: Path
) -> None:
    """A daemon on its way down still answers over open connections, and shows its containers as ended with 0."""

    async def test(bench: Bench) -> None:
        _, refs = await bench.launched(polite(0, 0.0), polite(0, 0.3), polite(0, 2.0))
        for ref in refs:
            await bench.until_it_says(ref, "ready")
        restarting = asyncio.create_task(restart(own_docker, gracefully=True))
        phases = set()
        while not restarting.done():
            with suppress(EngineError):
                phases |= {(s.phase, s.exit_code) for s in await bench.engine.observe(bench.job_id)}
            await asyncio.sleep(0.01)
        await restarting
        ended = await bench.ended()
        phases |= {(s.phase, s.exit_code) for s in ended.values()}
        assert phases <= {(Phase.RUNNING, None), (Phase.LOST, None)}

    run(test, tmp_path)


@pytest.mark.parametrize("gracefully", HOW)
def test_a_log_is_whole_after_a_restart(own_docker: OwnDocker, tmp_path: Path, gracefully: bool) -> None:
    async def test(bench: Bench) -> None:
        act = Act(("sh", "-c", "i=0; while :; do echo $i; i=$((i+1)); sleep 0.01; done"), sleeps().script)
        _, (ref, *_) = await bench.launched(act)
        async with following(bench, ref) as lines:
            await eventually(lambda: len(lines) > 50)
            await restart(own_docker, gracefully)
        assert [line.text for line in lines] == [str(number) for number in range(len(lines))]
        assert len(lines) == len(await bench.lines(ref, follow=False))

    run(test, tmp_path)


@pytest.mark.parametrize("gracefully", HOW)
def test_a_watcher_is_woken_after_a_restart(own_docker: OwnDocker, tmp_path: Path, gracefully: bool) -> None:
    async def test(bench: Bench) -> None:
        async with bench.engine.watch(bench.job_id) as items:
            await anext(items)
            await restart(own_docker, gracefully)
            async with asyncio.timeout(30):
                await anext(items)
            await asyncio.sleep(6)  # the subscription stands again
            await bench.launched(prints(1, every=0.5))
            async with asyncio.timeout(20):
                async for _ in items:
                    if (await bench.seen())["workerpool0-0"].ended:
                        break

    run(test, tmp_path)
