"""What is to happen in one simulated history: a job, its replicas' lives, who supervises it when, and what goes wrong."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from random import Random
from typing import Any

from airflow_customjob.backends.base import ReplicaRef
from airflow_customjob.backends.fake import (
    Script,
    cannot_start,
    exits,
    is_lost,
    killed_by,
    out_of_memory,
    runs_for_ever,
)
from airflow_customjob.plan.types import JobOptions, JobRequest

CHAOS = 60.0
"""Seconds after which nothing goes wrong any more, nobody is killed and nobody new arrives."""


class Arrival(StrEnum):
    """Who comes to supervise the job."""

    AGAIN = "again"
    """Another process of the newest owner: a trigger beside its operator, a restarted triggerer."""
    RETRY = "retry"
    """Airflow's next try of the same task."""
    CLEAR = "clear"
    """The task was cleared: the job is to run anew."""
    CHANGED = "changed"
    """Airflow's next try, and the spec has changed meanwhile."""
    ZOMBIE = "zombie"
    """A process of the first owner, however old it is by now."""


@dataclass(frozen=True)
class Visit:
    """A process that supervises the job for a while.

    :param at: seconds after the beginning.
    :param dies_at: seconds after the beginning at which it is killed.
    :param dies_in_call: number of the engine call in which it is killed.
    :param hands_over: it leaves when the job runs, and another process of the same owner goes on.
    """

    at: float
    arrival: Arrival
    dies_at: float | None = None
    dies_in_call: int | None = None
    hands_over: bool = False
    hold_removal: float = 0.0


@dataclass(frozen=True)
class Trouble:
    """How likely what goes wrong is.

    :param latency: calls take up to that many seconds before and after their effect.
    :param stalls: share of calls that take up to 40 s.
    :param failures: share of calls that fail, before, after or long before their effect.
    :param lost_events: share of events that nobody is told of.
    :param shuffled: what is ready at one moment runs in random order.
    """

    latency: float = 0.0
    stalls: float = 0.0
    failures: float = 0.0
    lost_events: float = 0.0
    shuffled: bool = False

    @property
    def none(self) -> bool:
        return not (self.stalls or self.failures or self.lost_events)


@dataclass(frozen=True)
class Scenario:
    """One history's data; a pure function of its seed.

    :param pools: replica counts.
    :param visits: who supervises, the first one first.
    :param cancels: when a user cancels.
    :param vanishes: when the object of a random replica is removed behind the package's back.
    :param losses: when a random running replica is taken away by the infrastructure.
    :param prunes: when the record is removed behind the package's back.
    :param full: beginning and end of a time in which the engine has no room.
    :param refused: a replica that the engine never creates.
    :param has_image: False: preparing is refused.
    """

    seed: int
    pools: tuple[int, ...]
    lives: str
    disable_retries: bool
    restart_job_on_worker_restart: bool
    timeout: float
    options: JobOptions
    visits: tuple[Visit, ...]
    trouble: Trouble
    cancels: tuple[float, ...] = ()
    vanishes: tuple[float, ...] = ()
    losses: tuple[float, ...] = ()
    prunes: tuple[float, ...] = ()
    full: tuple[float, float] | None = None
    refused: str | None = None
    has_image: bool = True

    @property
    def replicas(self) -> list[str]:
        return [f"workerpool{pool}-{index}" for pool, count in enumerate(self.pools) for index in range(count)]

    @property
    def smooth(self) -> bool:
        """Nothing goes wrong between the supervisors and the engine, and one of them is always there."""
        return (
            self.trouble.none
            and not self.prunes
            and all(v.dies_at is None and v.dies_in_call is None for v in self.visits)
        )

    def request(self, version: int = 0) -> JobRequest:
        """The job as it is asked for; each version has another digest."""
        pools: list[dict[str, Any]] = [
            {
                "machineSpec": {"machineType": "n1-standard-4"},
                "replicaCount": str(count),
                "containerSpec": {"imageUri": "fake/image:1", "args": [f"--version={version}"]},
            }
            for count in self.pools
        ]
        scheduling: dict[str, Any] = {"timeout": f"{self.timeout:g}s"}
        if self.disable_retries:
            scheduling["disableRetries"] = True
        if self.restart_job_on_worker_restart:
            scheduling["restartJobOnWorkerRestart"] = True
        job = {"displayName": "simulated", "jobSpec": {"workerPoolSpecs": pools, "scheduling": scheduling}}
        return JobRequest(job, self.options)

    def script(self, ref: ReplicaRef) -> Script:
        """What this incarnation does, whenever it starts."""
        rng = Random(f"{self.seed} {ref.name}")
        kind = rng.choices(KINDS, LIVES[self.lives][ref.replica != "workerpool0-0"])[0]
        script = _life(kind, rng)
        if rng.random() < 0.1:
            script = script.ignoring_term()
        elif rng.random() < 0.1:
            script = script.on_term(
                code=rng.choice((0, 0, 1, 134)), after=rng.choice((0.0, 0.1, 0.4, 1.0)), says="bye\n"
            )
        held_up = rng.random()
        if held_up >= 0.1:
            return script
        seconds = rng.choice((0.1, 1.0, 3.0))
        return script.queueing(seconds) if held_up < 0.03 else script.waiting(seconds)


KINDS = ("succeeds", "for ever", "fails", "crashes", "out of memory", "cannot start", "lost")
LIVES = {
    "good": ((90, 0, 2, 2, 2, 2, 2), (30, 60, 2, 2, 2, 2, 2)),
    "endless": ((0, 90, 2, 2, 2, 2, 2), (30, 60, 2, 2, 2, 2, 2)),
    "crashing": ((40, 0, 5, 50, 0, 0, 5), (20, 50, 0, 30, 0, 0, 0)),
    "fading": ((30, 30, 0, 0, 0, 0, 40), (20, 40, 0, 0, 0, 0, 40)),
    "doomed": ((0, 0, 0, 50, 0, 0, 50), (0, 0, 0, 0, 0, 0, 100)),
    "broken": ((30, 0, 30, 10, 10, 10, 10), (20, 20, 20, 10, 10, 10, 10)),
}
"""Weights of :data:`KINDS` for the primary replica and for the others."""


def _life(kind: str, rng: Random) -> Script:
    # Few different times, so that many things happen in the same instant.
    after = rng.choice((0.0, 0.0, 0.1, 0.5, 1.0, 1.0, 2.0, 5.0, 12.0, 30.0))
    says = [f"line {number}" for number in range(rng.choice((0, 1, 3, 8)))]
    every = rng.choice((0.0, 0.0, 0.05, 0.4))
    match kind:
        case "succeeds":
            return exits(0, says=says, after=after, every=every)
        case "for ever":
            return runs_for_ever(says=says, every=every)
        case "fails":
            return exits(rng.choice((1, 2, 127, 137, 143, 255)), says=says, after=after, every=every)
        case "crashes":
            return rng.choice(
                (killed_by(6, says=says, after=after), killed_by(11, says=says, after=after), exits(6), exits(11))
            )
        case "out of memory":
            return out_of_memory(says=says, after=after)
        case "cannot start":
            return cannot_start()
        case _:
            return is_lost(says=says, after=after)


def scenario_of(seed: int) -> Scenario:
    rng = Random(seed)

    def maybe(probability: float) -> bool:
        return rng.random() < probability

    def moment() -> float:
        return rng.choice((rng.uniform(0, 2), rng.uniform(0, 10), rng.uniform(0, CHAOS)))

    def moments(probability: float, most: int) -> tuple[float, ...]:
        return tuple(sorted(moment() for _ in range(rng.randint(1, most)))) if maybe(probability) else ()

    def visit(at: float, arrival: Arrival, mortal: bool) -> Visit:
        dies_in_call = rng.choice((rng.randint(1, 12), rng.randint(1, 60))) if mortal and maybe(0.5) else None
        dies_at = at + moment() if mortal and dies_in_call is None and maybe(0.7) else None
        return Visit(at, arrival, dies_at, dies_in_call, maybe(0.15), rng.choice((0.0, 0.0, 0.0, 2.0)))

    pools = (1, *(rng.randint(1, 3) for _ in range(rng.choice((0, 1, 1, 2)))))
    while sum(pools) > 6:
        pools = pools[:-1]
    mortal = maybe(0.7)
    arrivals = [
        Arrival.AGAIN,
        Arrival.AGAIN,
        Arrival.RETRY,
        Arrival.RETRY,
        Arrival.CLEAR,
        Arrival.CHANGED,
        Arrival.ZOMBIE,
    ]
    visits = [visit(0.0, Arrival.RETRY, mortal)]
    visits += sorted(
        (visit(moment(), rng.choice(arrivals), mortal) for _ in range(rng.choice((0, 1, 1, 2, 3, 5)))),
        key=lambda v: v.at,
    )
    troubles = (
        Trouble(),
        Trouble(latency=0.05),
        Trouble(latency=0.5, shuffled=True),
        Trouble(latency=0.05, failures=0.05, lost_events=0.3, shuffled=True),
        Trouble(latency=0.3, failures=0.1, stalls=0.02, lost_events=0.3, shuffled=True),
        Trouble(latency=2.0, failures=0.2, stalls=0.05, lost_events=1.0, shuffled=True),
    )
    replicas = [f"workerpool{pool}-{index}" for pool, count in enumerate(pools) for index in range(count)]
    begins_full = moment() if maybe(0.1) else None
    return Scenario(
        seed=seed,
        pools=pools,
        lives=rng.choices(list(LIVES), (50, 10, 15, 15, 2, 8))[0],
        disable_retries=maybe(0.15),
        restart_job_on_worker_restart=maybe(0.2),
        timeout=rng.choice((3.0, 10.0, 30.0, 604800.0, 604800.0, 604800.0)),
        options=JobOptions(
            stop_grace=rng.choice((0.0, 0.5, 0.5, 3.0)),
            timeout_state=rng.choice(("CANCELLED", "CANCELLED", "EXPIRED", "FAILED")),
            gang=not maybe(0.15),
        ),
        visits=tuple(visits),
        trouble=rng.choice(troubles),
        cancels=moments(0.15, 2),
        vanishes=moments(0.15, 3),
        losses=moments(0.2, 4),
        prunes=moments(0.08, 2),
        full=(begins_full, begins_full + rng.uniform(0.5, 15)) if begins_full is not None else None,
        refused=rng.choice(replicas) if maybe(0.04) else None,
        has_image=not maybe(0.02),
    )
