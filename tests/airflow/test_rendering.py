"""Templates in a spec: what Jinja is shown, what it is not, and what a mistake says."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import DAG
from airflow.sdk.exceptions import AirflowFailException

from airflow_customjob import CustomJobOperator
from airflow_customjob.backends.docker import DockerBackend
from airflow_customjob.operators.rendering import excluded

CONTEXT = {"ds": "2026-01-02", "params": {"image": "local/py:1"}, "braces": "{{ ds }}"}


def job(*args: str, **container: Any) -> dict[str, Any]:
    spec = {"imageUri": "local/py:1", "command": ["sh"], "args": list(args), **container}
    return {"displayName": "job", "jobSpec": {"workerPoolSpecs": [{"replicaCount": 1, "containerSpec": spec}]}}


def rendered(custom_job: Any, **arguments: Any) -> CustomJobOperator:
    """The operator as it is executed."""
    with DAG("rendered", schedule=None) as dag:
        operator = CustomJobOperator(task_id="train", custom_job=custom_job, **arguments)
    ready: CustomJobOperator = operator.prepare_for_execution()
    ready.render_template_fields(dict(CONTEXT), dag.get_template_env())
    return ready


def args_of(custom_job: Any, **arguments: Any) -> list[str]:
    container = rendered(custom_job, **arguments).custom_job["jobSpec"]["workerPoolSpecs"][0]["containerSpec"]
    return list(container["args"])


def test_a_dag_that_renders_natively_leaves_text_as_it_is() -> None:
    """``"10"`` became a number, which is no argument, and ``"'quoted'"`` lost its quotes."""
    args = ["--epochs", "10", "True", "None", "[1, 2]", "'quoted'", "{{ 5 }}", "{{ params.image }}"]
    spec = {**job(*args), "labels": {"of": "{{ ds }}"}}
    spec["jobSpec"]["workerPoolSpecs"].append("{{ params.pools[0] }}")
    pool = {"replicaCount": 2, "containerSpec": {"imageUri": "local/py:1"}}
    with DAG("native", schedule=None, render_template_as_native_obj=True) as dag:
        operator = CustomJobOperator(task_id="train", custom_job=spec, project_id="{{ ds }}")
    ready: CustomJobOperator = operator.prepare_for_execution()
    ready.render_template_fields(
        {**CONTEXT, "params": {"image": "local/py:1", "pools": [pool]}}, dag.get_template_env()
    )
    pools = ready.custom_job["jobSpec"]["workerPoolSpecs"]
    assert pools[0]["containerSpec"]["args"] == [*args[:6], "5", "local/py:1"]
    assert pools[1] == pool
    assert ready.custom_job["labels"] == {"of": "2026-01-02"}


# -- what Airflow's own rendering would break ------------------------------------------------------------------------------


def test_a_file_name_in_args_is_no_template_file() -> None:
    assert args_of(job("--config", "/app/conf.yaml", "run.sh")) == ["--config", "/app/conf.yaml", "run.sh"]


def test_a_shell_length_is_left_alone_with_render_false() -> None:
    assert args_of(job("-c", "echo ${#a[@]}"), render=False) == ["-c", "echo ${#a[@]}"]


def test_a_go_template_is_left_alone_with_render_false() -> None:
    assert args_of(job("docker", "inspect", "{{.State}}"), render=False)[-1] == "{{.State}}"


def test_a_trailing_newline_is_kept() -> None:
    assert args_of(job("-c", "cat <<E\n{{ ds }}\nE\n")) == ["-c", "cat <<E\n2026-01-02\nE\n"]


def test_an_absolute_path_is_a_specs_file_and_in_args_an_argument(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(json.dumps(job(str(path), "{{ ds }}")))
    assert args_of(str(path)) == args_of(path) == [str(path), "2026-01-02"]


# -- what is rendered ------------------------------------------------------------------------------------------------------


def test_every_string_is_a_template_of_its_own() -> None:
    spec = job("{{ ds }}", "{{ ds }}-{{ params.image }}", imageUri="{{ params.image }}")
    container = rendered(spec).custom_job["jobSpec"]["workerPoolSpecs"][0]["containerSpec"]
    assert container["args"] == ["2026-01-02", "2026-01-02-local/py:1"]
    assert container["imageUri"] == "local/py:1"


def test_text_is_read_before_it_is_rendered() -> None:
    text = "displayName: job\njobSpec:\n  workerPoolSpecs:\n  - containerSpec: {args: ['{{ ds }}', 'a: {{ ds }}']}\n"
    assert args_of(text) == ["2026-01-02", "a: 2026-01-02"]


def test_a_path_is_relative_to_the_dags_file_and_may_be_a_template(tmp_path: Path) -> None:
    (tmp_path / "job-2026-01-02.json").write_text(json.dumps(job("{{ ds }}")))
    with DAG("relative", schedule=None) as dag:
        operator = CustomJobOperator(task_id="train", custom_job="job-{{ ds }}.json")
    dag.fileloc = str(tmp_path / "dag.py")
    operator.render_template_fields(dict(CONTEXT), dag.get_template_env())
    assert operator.custom_job == job("2026-01-02")


def test_an_expression_gives_a_spec_which_is_not_rendered_again() -> None:
    spec = {**CONTEXT, "spec": json.dumps(job("{{ ds }}"))}
    with DAG("expression", schedule=None) as dag:
        operator = CustomJobOperator(task_id="train", custom_job="{{ spec }}")
    operator.render_template_fields(spec, dag.get_template_env())
    assert operator.custom_job == job("{{ ds }}")


def test_what_a_value_holds_is_not_rendered_again() -> None:
    assert args_of(job("{{ braces }}")) == ["{{ ds }}"]


def test_a_message_is_rendered_like_its_dict() -> None:
    from google.cloud.aiplatform_v1 import CustomJob as Protobuf

    message = Protobuf(job_spec={"worker_pool_specs": [{"container_spec": {"args": ["{{ ds }}"]}}]})
    assert args_of(message) == ["2026-01-02"]


def test_excluded_fields_are_left_alone() -> None:
    spec = job("${#a[@]}", imageUri="{{ params.image }}")
    for path in ("job_spec.worker_pool_specs.container_spec.args", "workerPoolSpecs[0].containerSpec.args"):
        container = rendered(spec, render_exclude=[path]).custom_job["jobSpec"]["workerPoolSpecs"][0]["containerSpec"]
        assert (container["args"], container["imageUri"]) == (["${#a[@]}"], "local/py:1")


@pytest.mark.parametrize(
    ("path", "pattern", "matches"),
    [
        ("jobSpec.workerPoolSpecs[1].containerSpec.args[0]", "job_spec.worker_pool_specs[1].container_spec", True),
        ("jobSpec.workerPoolSpecs[1].containerSpec.args[0]", "job_spec.worker_pool_specs[0].container_spec", False),
        ("jobSpec.workerPoolSpecs[1].containerSpec.args[0]", "container_spec.args", False),
        ("worker_pool_specs[0].container_spec.command[2]", "worker_pool_specs.container_spec.command", True),
        ("displayName", "display_name", True),
        ("displayName", "display", False),
    ],
)
def test_an_excluded_path(path: str, pattern: str, matches: bool) -> None:
    assert excluded(path, [pattern]) is matches


# -- mistakes --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["echo ${#a[@]}", "{{.State}}", "{{ unknown_name }}", "{% if %}"])
def test_a_mistake_names_its_field_and_the_way_out(text: str) -> None:
    with pytest.raises(AirflowFailException) as raised:
        rendered(job("-c", text))
    message = str(raised.value)
    assert "jobSpec.workerPoolSpecs[0].containerSpec.args[1]" in message
    assert "render=False" in message
    assert "render_exclude=['jobSpec.workerPoolSpecs.containerSpec.args']" in message


def test_a_file_that_is_not_there_fails_without_a_retry(tmp_path: Path) -> None:
    with pytest.raises(AirflowFailException, match="the spec's file cannot be read"):
        rendered(str(tmp_path / "missing.yaml"))


@pytest.mark.parametrize("value", [None, 3, True, ["a"], object()])
def test_what_can_be_no_spec_is_refused_at_once(value: Any) -> None:
    with pytest.raises(TypeError, match="custom_job"):
        CustomJobOperator(task_id="train", custom_job=value)


def test_what_can_be_no_backend_is_refused_at_once() -> None:
    with pytest.raises(TypeError, match="backend is a int"):
        CustomJobOperator(task_id="train", custom_job={}, backend=3)  # type: ignore[arg-type]


# -- what is shared --------------------------------------------------------------------------------------------------------


def test_two_tasks_that_share_a_dict_and_a_backend_do_not_see_each_other_rendered() -> None:
    spec, backend = job("{{ ds }}"), DockerBackend(conn_id="docker-{{ ds }}", volumes=("/data/{{ ds }}:/data",))
    before = deepcopy(spec)
    first, second = rendered(spec, backend=backend), rendered(spec, backend=backend, render=False)
    assert spec == before
    assert first.custom_job == job("2026-01-02")
    assert second.custom_job == before
    assert backend == DockerBackend(conn_id="docker-{{ ds }}", volumes=("/data/{{ ds }}:/data",))
    assert first.backend == DockerBackend(conn_id="docker-2026-01-02", volumes=("/data/2026-01-02:/data",))
