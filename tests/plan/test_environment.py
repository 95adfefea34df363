"""What a replica sees of its cluster: Vertex AI's variables, by its documentation and by what real jobs have shown."""

from __future__ import annotations

import json

import pytest

from airflow_customjob.plan.capabilities import capabilities_of
from airflow_customjob.plan.environment import directory_variables
from airflow_customjob.plan.job_plan import make_plan
from airflow_customjob.plan.types import ClusterSpec, JobOptions, Prepared, SingleReplica
from tests.plan.requests import JOB, container, env, package, plan, problems, request

POOLS = (container(), container(3), {}, container(2))


def test_rank_is_the_position_in_pool_order() -> None:
    replicas = plan(*POOLS).replicas
    assert [(r.name, r.environ["RANK"], r.environ["WORLD_SIZE"]) for r in replicas] == [
        ("workerpool0-0", "0", "6"),
        ("workerpool1-0", "1", "6"),
        ("workerpool1-1", "2", "6"),
        ("workerpool1-2", "3", "6"),
        ("workerpool3-0", "4", "6"),
        ("workerpool3-1", "5", "6"),
    ]
    assert {r.environ["MASTER_ADDR"] for r in replicas} == {replicas[0].host}
    assert {r.environ["MASTER_PORT"] for r in replicas} == {"3333"}


def test_index_and_the_pools_before_give_the_rank() -> None:
    """As users' code checks it: task.index + sizes of earlier pools == RANK, and every address is its replica's."""
    for replica in plan(*POOLS).replicas:
        spec = json.loads(replica.environ["CLUSTER_SPEC"])
        names = list(spec["cluster"])
        assert names == ["workerpool0", "workerpool1", "workerpool3"], "skipped pools are absent, the others in order"
        before = names[: names.index(spec["task"]["type"])]
        rank = sum(len(spec["cluster"][name]) for name in before) + spec["task"]["index"]
        assert str(rank) == replica.environ["RANK"]
        assert spec["cluster"][spec["task"]["type"]][spec["task"]["index"]] == f"{replica.host}:2222"
        assert replica.environ["HOSTNAME"] == replica.host


def test_tf_config() -> None:
    by_name = {
        r.name: json.loads(r.environ["TF_CONFIG"])
        for r in plan(container(), container(2), container(), container()).replicas
    }
    assert {name: (c["task"]["type"], c["task"]["index"]) for name, c in by_name.items()} == {
        "workerpool0-0": ("chief", 0),
        "workerpool1-0": ("worker", 0),
        "workerpool1-1": ("worker", 1),
        "workerpool2-0": ("ps", 0),
        "workerpool3-0": ("evaluator", 0),
    }
    assert all(list(c["cluster"]) == ["chief", "worker", "ps"] for c in by_name.values())


def test_a_job_of_one_replica_has_no_rank_and_no_tf_config() -> None:
    names = plan().primary.environ.keys()
    assert not {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "TF_CONFIG"} & names
    assert "CLUSTER_SPEC" in names


@pytest.mark.parametrize(("form", "key"), [(SingleReplica.WORKERPOOL0, "workerpool0"), (SingleReplica.CHIEF, "chief")])
def test_one_replica_s_cluster(form: SingleReplica, key: str) -> None:
    spec = json.loads(plan(options=JobOptions(single_replica=form)).primary.environ["CLUSTER_SPEC"])
    assert (list(spec["cluster"]), spec["task"]) == ([key], {"type": key, "index": 0})
    two = plan(container(), container(), options=JobOptions(single_replica=form)).primary.environ["CLUSTER_SPEC"]
    assert list(json.loads(two)["cluster"]) == ["workerpool0", "workerpool1"]


def test_the_job_in_cluster_spec_is_text() -> None:
    spec = json.loads(plan(package(args=["--a"])).primary.environ["CLUSTER_SPEC"])
    assert json.loads(spec["job"]) == {
        "python_module": "trainer.task",
        "package_uris": ["gs://b/one-1.tar.gz", "gs://b/two-2.whl"],
        "job_args": ["--a"],
    }
    assert (spec["environment"], spec["open_ports"]) == ("cloud", [3333])


def test_cluster_spec_as_a_file() -> None:
    options = JobOptions(cluster_spec=ClusterSpec.FILE)
    made = plan(container(), container(), options=options)
    replica, plain = made.primary, plan(container(), container()).primary
    files = dict(made.files_of(replica))
    for name in ("CLUSTER_SPEC", "TF_CONFIG"):
        assert name not in replica.environ
        assert files[replica.environ[f"{name}_FILE"]] == plain.environ[name]


def test_no_cluster_spec() -> None:
    replica = plan(container(), container(), options=JobOptions(cluster_spec=ClusterSpec.NONE)).primary
    assert not [name for name in replica.environ if name.startswith(("CLUSTER_SPEC", "TF_CONFIG"))]
    assert replica.environ["RANK"] == "0"


DIRECTORIES = [
    ("", None, {}),
    ("gs://b/x", None, "gs://b/x/"),
    ("gs://b/x/", None, "gs://b/x/"),
    ("gs://b", None, "gs://b/"),
    ("gs://b/x//", None, "gs://b/x//"),
    ("gs://b/x", "3", "gs://b/x/3/"),
]


@pytest.mark.parametrize(("prefix", "trial", "base"), DIRECTORIES)
def test_directories(prefix: str, trial: str | None, base: str) -> None:
    expected = base and {
        "AIP_MODEL_DIR": f"{base}model/",
        "AIP_CHECKPOINT_DIR": f"{base}checkpoints/",
        "AIP_TENSORBOARD_LOG_DIR": f"{base}logs/",
    }
    assert directory_variables(prefix, trial) == expected


def test_a_trial() -> None:
    replica = plan(container(), container(), options=JobOptions(trial_id="3")).primary
    assert replica.environ["CLOUD_ML_TRIAL_ID"] == "3"
    assert json.loads(replica.environ["CLUSTER_SPEC"])["task"]["trial"] == "3"
    assert json.loads(replica.environ["TF_CONFIG"])["task"]["trial"] == "3"


def test_the_user_s_variable_wins_and_that_is_told() -> None:
    directory = {"baseOutputDirectory": {"outputUriPrefix": "gs://b/x"}}
    made = plan(container(env=env(AIP_MODEL_DIR="/here", MINE="1")), **directory)
    assert made.primary.environ["AIP_MODEL_DIR"] == "/here"
    assert [str(note) for note in made.notes] == [
        "worker_pool_specs[0].container_spec.env: AIP_MODEL_DIR takes the place of the variable that is set by itself"
    ]


def test_a_container_knows_that_it_is_one() -> None:
    assert plan().primary.environ["AIP_USE_CUSTOM_CONTAINER"] == "true"
    assert "AIP_USE_CUSTOM_CONTAINER" not in plan(package()).primary.environ


def test_ports_of_a_shared_network() -> None:
    asked = request(container(command=["x"]), container(2, command=["x"]))
    settled = Prepared(ports=(41, 42, 43, 44))
    made = make_plan(asked, capabilities_of("process"), job_id=JOB, prepared=settled)
    spec = json.loads(made.primary.environ["CLUSTER_SPEC"])
    assert spec["cluster"] == {"workerpool0": ["127.0.0.1:41"], "workerpool1": ["127.0.0.1:42", "127.0.0.1:43"]}
    assert (made.primary.environ["MASTER_ADDR"], made.primary.environ["MASTER_PORT"]) == ("127.0.0.1", "44")


# -- what is refused ----------------------------------------------------------------------------------------------


def test_a_variable_that_linux_would_not_take_is_refused() -> None:
    found = problems(container(), container(2500))
    assert {problem.message.split()[0] for problem in found} == {"CLUSTER_SPEC", "TF_CONFIG"}
    assert all('choose cluster_spec="file"' in problem.message for problem in found)
    for remedy in (ClusterSpec.FILE, ClusterSpec.NONE):
        assert problems(container(), container(2500), options=JobOptions(cluster_spec=remedy)) == []


def test_two_thousand_replicas_fit() -> None:
    assert problems(container(), container(1999)) == []


@pytest.mark.parametrize(("size", "count"), [(120_000, 0), (120_001, 1)])
def test_a_variable_of_the_user_s(size: int, count: int) -> None:
    found = problems(container(env=env(BIG="x" * size)))
    assert len(found) == count
    assert all("BIG of workerpool0-0 has 120,001 bytes" in problem.message for problem in found)


def test_bytes_count_and_not_characters() -> None:
    assert len(problems(container(env=env(BIG="é" * 60_001)))) == 1


def test_a_process_needs_a_command() -> None:
    (problem,) = problems(container(), backend="process")
    assert problem.path == "job_spec.worker_pool_specs[0].container_spec.command"
    assert problems(container(command=["x"]), package(), backend="process") == []


def test_a_secret_is_not_given_twice() -> None:
    options = JobOptions(secret_env=(("TOKEN", "env:TOKEN"),))
    (problem,) = problems(container(env=env(TOKEN="x")), options=options)
    assert problem.path == "job_spec.worker_pool_specs[0].container_spec.env"
    assert "TOKEN" not in plan(options=options).primary.environ


def test_all_problems_at_once() -> None:
    found = problems(
        container(env=env(BIG="x" * 130_000)),
        backend="process",
        network="n",
        options=JobOptions(ignore_fields=("qqq",)),
    )
    assert {problem.rule for problem in found} == {"ignore-fields", "not-honoured", "command-required", "variable-size"}
