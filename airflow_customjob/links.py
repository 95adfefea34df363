"""Buttons of a task: to its tab, its primary replica's log, its output directory.

Airflow shows what the XCom under a link's key holds. It stores ``get_link``'s value there whenever a process of the task ends, by a
deferral too; :func:`links_of` is for a task that runs to its end in one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import attrs
from airflow.sdk import BaseOperatorLink
from airflow.sdk.configuration import conf

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator
    from airflow.sdk.types import TaskInstanceKey

ROUTE = "customjob"
"""Of the tab on a task instance's page, and with ``-run`` on a DAG run's."""
CONSOLE = "https://console.cloud.google.com/storage/browser/"


def page_of(where: Mapping[str, Any] | TaskInstanceKey) -> str:
    """The page of a task instance.

    :param where: dag_id, run_id, task_id and map_index, as keys or attributes.
    """
    get = where.__getitem__ if isinstance(where, Mapping) else lambda name: getattr(where, name)
    base = conf.get("api", "base_url", fallback="").rstrip("/")
    page = f"{base}/dags/{quote(get('dag_id'), '')}/runs/{quote(get('run_id'), '')}/tasks/{quote(get('task_id'), '')}"
    map_index = get("map_index")
    return page if map_index is None or int(map_index) < 0 else f"{page}/mapped/{map_index}"


def browsable(directory: str) -> str:
    """The address at which a person sees a directory."""
    if directory.startswith("gs://"):
        return CONSOLE + quote(directory.removeprefix("gs://").rstrip("/"))
    return f"file://{quote(directory)}" if directory.startswith("/") else directory


@attrs.define()
class CustomJobLink(BaseOperatorLink):
    """The job's tab."""

    name = "Custom Job"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        return f"{page_of(ti_key)}/plugin/{ROUTE}"


@attrs.define()
class PrimaryLogLink(BaseOperatorLink):
    """The log of the primary replica: its row's in a group, else the task's, which has every replica's lines."""

    name = "Primary replica's log"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        group = operator.task_id.rpartition(".")[0]
        is_one_of_many = str(ti_key.map_index).isdigit()  # their rows are mapped over all of them
        rows = [f"{group}.workerpool0.replica", f"{group}.replicas"] if group and not is_one_of_many else []
        dag = operator.get_dag()
        row = next((task_id for task_id in rows if dag is not None and dag.has_task(task_id)), None)
        if row is None:
            return page_of(ti_key)
        return page_of({"dag_id": ti_key.dag_id, "run_id": ti_key.run_id, "task_id": row, "map_index": 0})


@attrs.define()
class OutputLink(BaseOperatorLink):
    """The job's ``baseOutputDirectory``: Google's console for a bucket, else the directory, which Airflow's UI shows no button for
    (3.3.2 leaves out all that is not http) and its API does.
    """

    name = "Output directory"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        return browsable(getattr(operator, "output_directory", ""))


LINKS = (CustomJobLink(), PrimaryLogLink(), OutputLink())


def links_of(operator: BaseOperator, ti: Any) -> dict[str, str]:
    """Every link by its XCom's key; empty where it leads nowhere."""
    return {link.xcom_key: link.get_link(operator, ti_key=ti) for link in LINKS}
