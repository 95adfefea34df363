"""A DAG runs to its end in this process, and its custom jobs on a fake engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from airflow_customjob.backends.fake import FakeWorld, Script
from airflow_customjob.client import AsyncCustomJobClient, CustomJobClient
from airflow_customjob.job import Job

if TYPE_CHECKING:
    from airflow.sdk import DAG

BUNDLE = "customjob-testing"
"""Name of the bundle that a DAG under test belongs to in Airflow's database."""


@dataclass(frozen=True)
class Ran:
    """A DAG that has run to its end.

    :param run: Airflow's DagRun.
    :param log: what its tasks have logged, and their replicas; empty where nobody has captured it.
    """

    run: Any
    log: str = ""

    @property
    def state(self) -> str:
        """``success`` or ``failed``."""
        return str(self.run.state)

    @property
    def states(self) -> dict[str, str]:
        """State by task; a mapped one is ``TASK[NAME]``, where NAME is its ``map_index_template`` or its number."""
        return {
            ti.task_id if ti.map_index < 0 else f"{ti.task_id}[{ti.rendered_map_index or ti.map_index}]": str(ti.state)
            for ti in self.run.get_task_instances()
        }

    def xcom(self, task_id: str, key: str = "return_value", map_index: int = -1) -> Any:
        """What a task has pushed; None: nothing."""
        from airflow.models.xcom import XComModel
        from airflow.utils.session import create_session

        with create_session() as session:
            query = XComModel.get_many(
                run_id=self.run.run_id, key=key, task_ids=task_id, map_indexes=map_index, dag_ids=self.run.dag_id
            )
            found = session.scalars(query).first()
            return None if found is None else XComModel.deserialize_value(found)

    def asset_events(self) -> list[tuple[str, dict[str, Any]]]:
        """The asset's name and the extra of each event that this run has emitted, in order."""
        from airflow.models.asset import AssetEvent
        from airflow.utils.session import create_session
        from sqlalchemy import select

        with create_session() as session:
            mine = (AssetEvent.source_dag_id == self.run.dag_id) & (AssetEvent.source_run_id == self.run.run_id)
            events = session.scalars(select(AssetEvent).where(mine).order_by(AssetEvent.id))
            return [(event.asset.name, event.extra) for event in events]


def run_dag(dag: DAG, take_log: Callable[[], str] = str, **how: Any) -> Ran:
    """``dag.test()`` of a DAG that is in no DAGs folder; its jobs run where it says, as processes for instance.

    :param take_log: gives what was logged since it was called last.
    :param how: arguments of ``dag.test()``, as ``run_conf``.
    """
    _store(dag)
    take_log()
    run = dag.test(**how)
    return Ran(run, take_log())


class FakeJobs:
    """Runs DAGs whose custom jobs run nothing: each replica follows its script, and without one exits with 0 at once.

    :param world: the engine.
    :param take_log: gives what was logged since it was called last.
    """

    def __init__(self, world: FakeWorld | None = None, take_log: Callable[[], str] = str) -> None:
        self.world = world or FakeWorld()
        self._take_log = take_log

    def script(self, replica: str, *scripts: Script, job: str = "") -> None:
        """What a replica does: see :meth:`FakeWorld.script`.

        :param replica: its name: ``workerpool1-0``.
        :param scripts: for its first start in a job, its second, ...; the last one holds for all further ones.
        :param job: display name of the jobs that this is for. Empty: any job.
        """
        self.world.script(replica, *scripts, job=job)

    def run(self, dag: DAG, **how: Any) -> Ran:
        """``dag.test()``, with this engine in the place of whatever backend the DAG's tasks name, and without delays between tries.

        :param how: arguments of ``dag.test()``, as ``run_conf``.
        """
        with _on(self.world, dag):
            return run_dag(dag, self._take_log, **how)

    def jobs(self) -> list[Job]:
        """Every job that was submitted, the latest first."""
        return CustomJobClient(self.world.backend()).list()


@contextmanager
def _on(world: FakeWorld, dag: DAG) -> Iterator[None]:
    """Inside, the DAG's jobs run on that engine; afterwards its tasks are what they were."""
    from airflow.sdk.definitions.mappedoperator import MappedOperator

    from airflow_customjob.operators.custom_job import CustomJobOperator

    with ExitStack() as stack:
        for task in dag.tasks:
            arguments = task.partial_kwargs if isinstance(task, MappedOperator) else vars(task)
            stack.enter_context(patch.dict(arguments, {"retry_delay": timedelta(0)}))
        client = AsyncCustomJobClient(world.backend())
        stack.enter_context(patch.object(CustomJobOperator, "client", lambda task: client))
        yield


def _store(dag: DAG) -> None:
    """``dag.test()`` demands that the DAG's serialized form is in the database."""
    from airflow.models.dagbundle import DagBundleModel
    from airflow.models.serialized_dag import SerializedDagModel
    from airflow.serialization.definitions.dag import SerializedDAG
    from airflow.serialization.serialized_objects import LazyDeserializedDAG
    from airflow.utils.session import create_session

    with create_session() as session:
        session.merge(DagBundleModel(name=BUNDLE))
        session.flush()
        lazy = LazyDeserializedDAG.from_dag(dag)
        SerializedDAG.bulk_write_to_db(BUNDLE, None, [lazy], session=session)
        SerializedDagModel.write_dag(lazy, bundle_name=BUNDLE, session=session)
