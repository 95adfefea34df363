"""What only the Kubernetes engine does, and whole jobs on a real cluster."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import socket
import subprocess
import sys
import sysconfig
import threading
import time
import traceback
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from airflow_customjob import CustomJobClient
from airflow_customjob.backends.base import EngineError, LaunchRefused, LogLine, Phase
from airflow_customjob.backends.kubernetes import KubernetesBackend, judge
from airflow_customjob.backends.kubernetes.permissions import NEEDED
from airflow_customjob.backends.kubernetes.sharing import api_of
from airflow_customjob.client import AsyncCustomJobClient
from airflow_customjob.job import Job
from airflow_customjob.plan.identity import new_job_id
from airflow_customjob.plan.types import ClusterSpec, JobOptions
from airflow_customjob.spec.job_state import JobState
from airflow_customjob.supervisor import supervise
from tests.backends.contract import (
    Act,
    KubernetesAdapter,
    bench_on,
    eventually,
    following,
    prints,
    sleeps,
    stubborn,
)

pytestmark = pytest.mark.kubernetes

IMAGE = os.environ.get("CUSTOMJOB_TEST_IMAGE", "local/py:1")
SMALL = {"*": {"cpu": "20m", "memory": "16Mi"}}
ADMIN = KubernetesBackend(machine_types=SMALL)


class Configured(KubernetesAdapter):
    def __init__(self, backend: KubernetesBackend) -> None:
        self._backend = backend

    def backend(self) -> KubernetesBackend:
        return self._backend


def api_call(method: str, path: str, body: dict[str, Any] | None = None, content_type: str = "application/json") -> Any:
    async def main() -> Any:
        api = await api_of(ADMIN)
        try:
            return await api.call(method, path, body=body, content_type=content_type)
        finally:
            await api.close()

    return asyncio.run(main())


@pytest.fixture
def namespace() -> Iterator[str]:
    """One of the test's own; gone afterwards with all that is in it."""
    name = f"customjob-test-{uuid4().hex[:8]}"
    api_call("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
    try:
        while not left_of(name, "serviceaccounts"):
            time.sleep(0.1)
        yield name
    finally:
        api_call("DELETE", f"/api/v1/namespaces/{name}")


def left_of(namespace: str, kind: str) -> list[str]:
    items = api_call("GET", f"/api/v1/namespaces/{namespace}/{kind}")["items"]
    return [item["metadata"]["name"] for item in items]


def pool(script: str, count: int = 1, **task: Any) -> dict[str, Any]:
    return {
        "machineSpec": {"machineType": "n1-standard-4"},
        "replicaCount": count,
        "containerSpec": {"imageUri": IMAGE, "command": ["sh", "-c", script], **task},
    }


def job_of(*pools: dict[str, Any], **spec: Any) -> dict[str, Any]:
    return {"displayName": "on Kubernetes", "jobSpec": {"workerPoolSpecs": list(pools), **spec}}


class Told:
    """What a user is told of a job."""

    def __init__(self) -> None:
        self.lines: list[LogLine] = []
        self.said: list[str] = []

    @property
    def texts(self) -> list[str]:
        return [line.prefixed for line in self.lines]

    def of(self, replica: str) -> list[str]:
        return [line.text for line in self.lines if line.ref.replica == replica and not line.notice]


def run(
    namespace: str,
    job: dict[str, Any],
    options: JobOptions | None = None,
    backend: KubernetesBackend = ADMIN,
    **how: Any,
) -> tuple[Job, Told]:
    told = Told()
    client = CustomJobClient(replace(backend, namespace=namespace))
    ended = client.run(job, options, sink=told.lines.append, say=told.said.append, **how)
    return ended, told


def assert_only_records_are_left(namespace: str) -> None:
    assert left_of(namespace, "pods") == []
    assert left_of(namespace, "services") == []
    assert left_of(namespace, "secrets") == []
    maps = [name for name in left_of(namespace, "configmaps") if name.startswith("customjob-")]
    assert all(name.count("-") == 1 for name in maps), maps


# -- whole jobs -----------------------------------------------------------------------------------------------------


def test_an_image_that_cannot_be_pulled_is_named_while_it_is_waited_for_and_given_up_in_time(
    namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A registry that does not answer may come back, but a mistyped name of one never does."""
    monkeypatch.setattr(judge, "NODE_PATIENCE", 8.0)
    monkeypatch.setattr(supervise, "RESYNC", 2.0)

    async def main() -> None:
        client = AsyncCustomJobClient(replace(ADMIN, namespace=namespace))
        told = Told()
        job = job_of(pool("exec sleep 1000", imageUri="127.0.0.1:1/none:404"), pool("exec sleep 1000"))
        _, submitted = await client.submit(job)
        driving = asyncio.create_task(client.supervise(submitted.job_id, sink=told.lines.append, say=told.said.append))
        try:
            async with asyncio.timeout(40):
                while not any("127.0.0.1:1/none:404" in said for said in told.said):
                    await asyncio.sleep(0.1)
            found = await client.get(submitted.job_id)
            assert found.state is JobState.JOB_STATE_PENDING
            assert "workerpool0-0 waits: " in found.record.message
            async with asyncio.timeout(40):
                ended = await driving
            assert ended.state is JobState.JOB_STATE_FAILED
            assert "its node has failed to start it for 8 s: " in ended.error
            assert "127.0.0.1:1/none:404" in ended.error
            assert not [said for said in told.said if "lines may be missing" in said], "it never had a log"
        finally:
            driving.cancel()

    asyncio.run(main())
    assert_only_records_are_left(namespace)


class NothingHere(BaseHTTPRequestHandler):
    """A registry that has no image at all."""

    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/v2/" else 404)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        if self.path != "/v2/":
            self.wfile.write(b'{"errors": [{"code": "MANIFEST_UNKNOWN", "message": "manifest unknown"}]}')

    do_HEAD = do_GET  # noqa: N815 - so called by http.server

    def log_message(self, format: str, *args: Any) -> None:
        pass


def test_an_image_that_its_registry_does_not_have_fails_the_job(namespace: str) -> None:
    if not node_is_here():
        pytest.skip("kubernetes: its node is another machine, which cannot reach a registry here")
    registry = ThreadingHTTPServer(("127.0.0.1", 0), NothingHere)
    threading.Thread(target=registry.serve_forever, daemon=True).start()
    image = f"127.0.0.1:{registry.server_port}/none:404"
    try:
        ended, _ = run(namespace, job_of(pool("exec sleep 1000"), pool("exit 0", imageUri=image)))
    finally:
        registry.shutdown()
        registry.server_close()
    assert ended.state is JobState.JOB_STATE_FAILED
    assert ended.error.startswith(
        "The replica workerpool1-0 exited with a non-zero status of 128. Termination reason: StartError."
    )
    assert image in ended.error
    assert "not found" in ended.error
    assert_only_records_are_left(namespace)


def test_a_volume_that_cannot_be_mounted_is_named_while_it_is_waited_for(namespace: str) -> None:
    template = {
        "spec": {
            "containers": [{"name": "replica", "volumeMounts": [{"name": "m", "mountPath": "/m"}]}],
            "volumes": [{"name": "m", "configMap": {"name": "not-there"}}],
        }
    }

    async def main() -> None:
        async with bench_on(Configured(replace(ADMIN, namespace=namespace, pod_template=template))) as bench:
            await bench.launched(sleeps())
            async with asyncio.timeout(100):
                while "FailedMount" not in (status := (await bench.seen())["workerpool0-0"]).message:
                    await asyncio.sleep(0.5)
            assert '"not-there" not found' in status.message
            assert status.phase is Phase.WAITING

    asyncio.run(main())


def test_a_secret_is_in_the_replica_and_in_no_record_or_manifest(
    namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = "hunter2-$(HOME)-$$"
    monkeypatch.setenv("TOP_SECRET", secret)
    options = JobOptions(secret_env=(("TOKEN", "env:TOP_SECRET"),))
    script = 'printf %s "$TOKEN" | sha256sum'
    told = Told()
    client = CustomJobClient(replace(ADMIN, namespace=namespace))
    plan = client.plan(job_of(pool(script)), options)
    assert "hunter2" not in str(client.backend.render(plan))
    ended = client.run(job_of(pool(script)), options, sink=told.lines.append)
    assert ended.state is JobState.JOB_STATE_SUCCEEDED, ended.error
    assert told.of("workerpool0-0") == [f"{hashlib.sha256(secret.encode()).hexdigest()}  -"]
    assert "hunter2" not in str(api_call("GET", f"/api/v1/namespaces/{namespace}/configmaps"))
    assert_only_records_are_left(namespace)


def test_a_long_cluster_spec_comes_as_a_file(namespace: str) -> None:
    check = (
        "import json, os\n"
        "spec = json.load(open(os.environ['CLUSTER_SPEC_FILE']))\n"
        "tf = json.load(open(os.environ['TF_CONFIG_FILE']))\n"
        "assert len(spec['cluster']['workerpool1']) == 2, spec\n"
        "assert 'CLUSTER_SPEC' not in os.environ\n"
        "print(spec['task'], tf['task']['type'], tf['task']['index'])\n"
    )
    wait = "\nimport time; time.sleep(0 if os.environ['RANK'] != '0' else 3)"
    command = ["python3", "-c", check + wait]
    ended, told = run(
        namespace,
        job_of(pool("", command=command), pool("", 2, command=command)),
        JobOptions(cluster_spec=ClusterSpec.FILE),
    )
    assert ended.state is JobState.JOB_STATE_SUCCEEDED, ended.error
    assert told.of("workerpool0-0") == ["{'type': 'workerpool0', 'index': 0} chief 0"]
    assert told.of("workerpool1-1") == ["{'type': 'workerpool1', 'index': 1} worker 1"]
    assert_only_records_are_left(namespace)


STRICT = {
    "spec": {
        "securityContext": {"runAsNonRoot": True, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [
            {
                "name": "replica",
                "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
            }
        ],
    }
}
"""What Pod Security's level ``restricted`` demands."""


def test_a_namespace_with_rules_for_each_container_is_kept_to(namespace: str) -> None:
    """Regression: our own init containers had no security context and no requests, and were refused."""
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    merge = "application/merge-patch+json"
    api_call("PATCH", f"/api/v1/namespaces/{namespace}", {"metadata": {"labels": labels}}, merge)
    quota = {"metadata": {"name": "all"}, "spec": {"hard": {"requests.cpu": "1", "requests.memory": "1Gi"}}}
    api_call("POST", f"/api/v1/namespaces/{namespace}/resourcequotas", quota)
    job = job_of(pool('id -u; test -s "$CLUSTER_SPEC_FILE"'))
    filed = JobOptions(cluster_spec=ClusterSpec.FILE)
    refused, _ = run(namespace, job, filed)
    assert refused.state is JobState.JOB_STATE_FAILED
    assert 'violates PodSecurity "restricted' in refused.error
    ended, told = run(namespace, job, filed, replace(ADMIN, pod_template=STRICT))
    assert ended.state is JobState.JOB_STATE_SUCCEEDED, ended.error
    assert told.of("workerpool0-0") == ["1000"]
    assert_only_records_are_left(namespace)


# -- who dies, and what is found ------------------------------------------------------------------------------------


def test_a_deleted_pod_is_lost_and_comes_back_under_its_name(namespace: str) -> None:
    async def main() -> None:
        client = AsyncCustomJobClient(replace(ADMIN, namespace=namespace))
        told = Told()
        script = 'hostname; test -z "$(getent hosts $MASTER_ADDR)" || echo found; exec sleep 1000'
        _, submitted = await client.submit(job_of(pool("sleep 12"), pool(script)))
        driving = asyncio.create_task(client.supervise(submitted.job_id, sink=told.lines.append, say=told.said.append))
        try:
            async with asyncio.timeout(60):
                while not told.of("workerpool1-0"):
                    await asyncio.sleep(0.1)
                (worker,) = [
                    s.ref.name
                    for s in (await client.get(submitted.job_id)).replicas
                    if s.ref.replica == "workerpool1-0"
                ]
                api = await api_of(replace(ADMIN, namespace=namespace))
                await api.delete("pods", worker)
                await api.close()
                ended = await driving
            assert ended.state is JobState.JOB_STATE_SUCCEEDED, ended.error
            hosts = [text for text in told.of("workerpool1-0") if text.startswith("cmle-")]
            assert len(hosts) == 2
            assert len(set(hosts)) == 1
            assert any("workerpool1-0 was lost and starts again (1 of 5)" in said for said in told.said), told.said
        finally:
            driving.cancel()

    asyncio.run(main())
    assert_only_records_are_left(namespace)


def test_an_evicted_replica_is_lost_whatever_its_exit_code(namespace: str) -> None:
    async def main() -> None:
        async with bench_on(Configured(replace(ADMIN, namespace=namespace))) as bench:
            act = Act(("sh", "-c", "trap 'exit 0' TERM; echo ready; while :; do sleep 0.1; done"), sleeps().script)
            _, (ref, *_) = await bench.launched(act)
            await bench.until_it_says(ref, "ready")
            seen: list[Any] = []
            async with bench.engine.watch(bench.job_id) as changes:
                body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": ref.name}}
                api = await api_of(replace(ADMIN, namespace=namespace))
                await api.call("POST", api.path("pods", ref.name, "eviction"), body=body)
                await api.close()
                async with asyncio.timeout(30):
                    async for _ in changes:
                        statuses = await bench.engine.observe(bench.job_id)
                        seen += statuses
                        if not statuses:
                            break
            assert not [status for status in seen if status.phase is Phase.EXITED]

    asyncio.run(main())


def test_a_pod_that_kueue_keeps_goes_all_the_same(namespace: str) -> None:
    """Regression: its finalizer stays on the Pods of a group until all have succeeded, which stopped workers never do; and a
    lost one until another takes its place, which for us comes only after it."""
    kept = {"metadata": {"finalizers": ["kueue.x-k8s.io/managed"]}}
    backend = replace(ADMIN, pod_template=kept)
    ended, told = run(namespace, job_of(pool("sleep 1"), pool("exec sleep 1000", 2)), backend=backend)
    assert ended.state is JobState.JOB_STATE_SUCCEEDED, ended.error
    assert not any("did not go" in said for said in told.said), told.said
    assert_only_records_are_left(namespace)


def test_what_is_left_goes_with_the_record(namespace: str) -> None:
    """The record owns all else: without any process of ours, nothing outlives it."""

    async def main() -> None:
        async with bench_on(Configured(replace(ADMIN, namespace=namespace))) as bench:
            version = await bench.engine.write_record(bench.job_id, "{}", if_version=0)
            await bench.created(sleeps(), sleeps())
            await bench.engine.delete_record(bench.job_id, if_version=version)

            async def gone() -> bool:
                return not [job for job in await bench.engine.jobs() if job.job_id == bench.job_id]

            await eventually(gone)

    asyncio.run(main())


# -- permissions ----------------------------------------------------------------------------------------------------


def role_of_the_documentation(root: Path) -> list[dict[str, Any]]:
    import yaml

    text = (root / "docs" / "kubernetes.md").read_text()
    manifest = text.partition("```yaml\n# role.yaml\n")[2].partition("```")[0]
    rules = yaml.safe_load(manifest)["rules"]
    assert rules
    return list(rules)


@pytest.fixture
def restricted(namespace: str, root: Path, tmp_path: Path) -> Any:
    """Makes a kubeconfig of a service account that has the documented Role, with some verbs taken away."""
    import yaml

    def make(without: tuple[str, str] | None = None) -> KubernetesBackend:
        rules = role_of_the_documentation(root)
        if without is not None:
            resource, verb = without
            rules = [
                {**rule, "resources": [name], "verbs": [v for v in rule["verbs"] if (name, v) != (resource, verb)]}
                for rule in rules
                for name in rule["resources"]
            ]
            rules = [rule for rule in rules if rule["verbs"]]
        name = f"user-{uuid4().hex[:6]}"
        api = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}"
        api_call("POST", f"/api/v1/namespaces/{namespace}/serviceaccounts", {"metadata": {"name": name}})
        api_call("POST", f"{api}/roles", {"metadata": {"name": name}, "rules": rules})
        binding = {
            "metadata": {"name": name},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name},
            "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": namespace}],
        }
        api_call("POST", f"{api}/rolebindings", binding)
        asked = api_call("POST", f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token", {"spec": {}})
        config = yaml.safe_load(Path(os.environ["KUBECONFIG"]).read_text())
        config["users"] = [{"name": config["users"][0]["name"], "user": {"token": asked["status"]["token"]}}]
        path = tmp_path / f"{name}.kubeconfig"
        path.write_text(yaml.safe_dump(config))
        return KubernetesBackend(kubeconfig=str(path), namespace=namespace, machine_types=SMALL)

    return make


def test_the_documented_role_is_enough(namespace: str, restricted: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOP_SECRET", "x")
    backend = restricted()
    options = JobOptions(secret_env=(("TOKEN", "env:TOP_SECRET"),), cluster_spec=ClusterSpec.FILE)
    ended, told = run(namespace, job_of(pool("echo here; sleep 1"), pool("exec sleep 1000")), options, backend=backend)
    assert ended.state is JobState.JOB_STATE_SUCCEEDED, ended.error
    assert told.of("workerpool0-0") == ["here"]
    client = CustomJobClient(backend)
    assert [job.job_id for job in client.list()] == [ended.job_id]
    client.gc()
    assert_only_records_are_left(namespace)


def test_the_documented_role_is_what_is_checked(root: Path) -> None:
    documented = {name: tuple(rule["verbs"]) for rule in role_of_the_documentation(root) for name in rule["resources"]}
    assert documented == NEEDED


@pytest.mark.parametrize("wish", [f"{verb} {resource}" for resource, verbs in NEEDED.items() for verb in verbs])
def test_a_verb_that_is_taken_away_is_named(namespace: str, restricted: Any, wish: str) -> None:
    verb, resource = wish.split()
    with pytest.raises(LaunchRefused, match=rf"lacks \(RBAC\): {wish}; "):
        run(namespace, job_of(pool("exit 0"), pool("exit 0")), backend=restricted((resource, verb)))
    assert left_of(namespace, "pods") == []
    assert left_of(namespace, "configmaps") == ["kube-root-ca.crt"]


# -- the way to the cluster -----------------------------------------------------------------------------------------


def identity_by(backend: KubernetesBackend) -> tuple[str, str]:
    async def main() -> tuple[str, str]:
        async with backend.open() as engine:
            return engine._api.namespace, await engine.identity()  # type: ignore[attr-defined]

    return asyncio.run(main())


@pytest.mark.parametrize("form", ["path", "text", "text, its context's namespace"])
def test_a_connection_of_airflow_leads_there(namespace: str, monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    import yaml

    path = os.environ["KUBECONFIG"]
    wanted = identity_by(KubernetesBackend(kubeconfig=path, namespace=namespace))
    config = yaml.safe_load(Path(path).read_text())
    for context in config["contexts"]:
        context["context"]["namespace"] = namespace
    way = {
        "path": {"kube_config_path": path, "namespace": namespace},
        "text": {"kube_config": Path(path).read_text(), "namespace": namespace},
        "text, its context's namespace": {"kube_config": yaml.safe_dump(config)},
    }
    connection = {"conn_type": "kubernetes", "extra": way[form]}
    monkeypatch.setenv("AIRFLOW_CONN_A_CLUSTER", json.dumps(connection))
    monkeypatch.delenv("KUBECONFIG")
    assert identity_by(KubernetesBackend(conn_id="a_cluster")) == wanted == (namespace, wanted[1])


WITHIN = """
import json, sys
from airflow_customjob import CustomJobClient, KubernetesBackend
for conn_id in (None, "here"):
    backend = KubernetesBackend(conn_id=conn_id, machine_types={"*": {}})
    ended = CustomJobClient(backend).run(json.loads(sys.argv[1]), sink=lambda line: print(line.prefixed), say=print)
    print("within", conn_id, ended.state.name, ended.error)
"""


def test_a_pod_of_the_cluster_runs_jobs_by_its_service_account(namespace: str, restricted: Any, root: Path) -> None:
    """With no kubeconfig, and by a connection that says so; with the documented Role, in its own namespace. Regression: a
    connection without a namespace led to ``default``."""
    if sys.version_info[:2] != (3, 11) or not node_is_here():
        pytest.skip(
            "kubernetes: what these tests run on cannot be brought into a Pod (Python 3.11, a node that is this machine)"
        )
    account = Path(restricted().kubeconfig).stem
    folders = {str(root), sysconfig.get_path("purelib")}
    container = {
        "name": "c",
        "image": IMAGE,
        "command": ["python3", "-c", WITHIN, json.dumps(job_of(pool("echo here", 1), pool("exec sleep 1000")))],
        "env": [
            {"name": "PYTHONPATH", "value": ":".join(sorted(folders))},
            {"name": "AIRFLOW_CONN_HERE", "value": '{"conn_type": "kubernetes", "extra": {"in_cluster": true}}'},
        ],
        "volumeMounts": [{"name": f"f{n}", "mountPath": path} for n, path in enumerate(sorted(folders))],
    }
    volumes = [{"name": f"f{n}", "hostPath": {"path": path}} for n, path in enumerate(sorted(folders))]
    spec = {"serviceAccountName": account, "restartPolicy": "Never", "containers": [container], "volumes": volumes}
    pods = f"/api/v1/namespaces/{namespace}/pods"
    api_call("POST", pods, {"metadata": {"name": "client"}, "spec": spec})
    while api_call("GET", f"{pods}/client")["status"]["phase"] not in ("Succeeded", "Failed"):
        time.sleep(0.5)
    told = subprocess.run(["kubectl", "logs", "-n", namespace, "client"], capture_output=True, text=True).stdout
    assert told.count("workerpool0-0: here") == 2, told
    assert "within None JOB_STATE_SUCCEEDED" in told
    assert "within here JOB_STATE_SUCCEEDED" in told
    assert left_of(namespace, "pods") == ["client"]


def node_is_here() -> bool:
    address = api_call("GET", "/api/v1/nodes")["items"][0]["status"]["addresses"][0]["address"]
    try:
        socket.create_server((address, 0)).close()
    except OSError:
        return False
    return True


def test_a_connection_that_leads_nowhere_is_named_and_not_quoted(monkeypatch: pytest.MonkeyPatch) -> None:
    extra = {"kube_config": "apiVersion: v1\nusers: [{token: hunter2"}
    monkeypatch.setenv("AIRFLOW_CONN_BROKEN", json.dumps({"conn_type": "kubernetes", "extra": extra}))
    with pytest.raises(EngineError, match="the connection 'broken' of the Kubernetes backend cannot be used") as raised:
        identity_by(KubernetesBackend(conn_id="broken"))
    assert "hunter2" not in "".join(traceback.format_exception(raised.value))


def test_no_way_to_a_cluster_is_an_error_that_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", "/no/such/file")
    with pytest.raises(EngineError, match=r"no way to a Kubernetes cluster: .*export KUBECONFIG"):
        identity_by(KubernetesBackend())


# -- the engine -----------------------------------------------------------------------------------------------------


def test_the_api_server_takes_what_is_rendered(namespace: str) -> None:
    backend = replace(ADMIN, namespace=namespace, queue="team", shm_size="1Gi", annotations={"a/b": "c"})
    options = JobOptions(cluster_spec=ClusterSpec.FILE, memory_limits=True, secret_env=(("TOKEN", "env:X"),))
    client = CustomJobClient(backend)
    worker = pool("exit 0", 2) | {
        "diskSpec": {"bootDiskSizeGb": 100},
        "nfsMounts": [{"server": "10.0.0.1", "path": "/export", "mountPoint": "data"}],
        "machineSpec": {"machineType": "n1-standard-8", "acceleratorType": "NVIDIA_TESLA_T4", "acceleratorCount": 2},
    }
    plan = client.plan(
        job_of(pool("exit 0"), worker, serviceAccount="trainer@project.iam.gserviceaccount.com"), options
    )
    account = {"metadata": {"name": "trainer"}}
    api_call("POST", f"/api/v1/namespaces/{namespace}/serviceaccounts", account)
    for manifest in backend.render(plan):
        kind = f"{manifest['kind'].lower()}s"
        api_call("POST", f"/api/v1/namespaces/{namespace}/{kind}?dryRun=All", manifest)


def test_cut_connections_lose_nothing(namespace: str) -> None:
    """Watch and logs go on from where they were."""

    async def main() -> None:
        async with bench_on(Configured(replace(ADMIN, namespace=namespace))) as bench:
            _, (ref, *_) = await bench.launched(prints(80, every=0.05))
            async with following(bench, ref) as lines:
                for _ in range(3):
                    await asyncio.sleep(1.0)
                    connector = bench.engine._api._client.rest_client.pool_manager.connector  # type: ignore[attr-defined]
                    assert connector._acquired
                    for connection in list(connector._acquired):
                        connection.transport.abort()
            assert [line.text for line in lines if not line.notice] == [f"line {number}" for number in range(80)]

    asyncio.run(main())


def test_credentials_that_were_refused_are_read_again(namespace: str) -> None:
    async def main() -> None:
        async with bench_on(Configured(replace(ADMIN, namespace=namespace))) as bench:
            await bench.created(sleeps())
            client = bench.engine._api._client  # type: ignore[attr-defined]
            client.configuration.api_key["BearerToken"] = "Bearer expired"
            seen = await asyncio.gather(*(bench.engine.observe(bench.job_id) for _ in range(5)))
            assert [len(statuses) for statuses in seen] == [1] * 5

    asyncio.run(main())


def test_a_replica_comes_back_without_what_it_was_made_of(namespace: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process drives the job: it has neither the variable nor the package's file, and need not."""

    async def main() -> None:
        async with bench_on(Configured(replace(ADMIN, namespace=namespace))) as bench:
            monkeypatch.setenv("TOP_SECRET", "x")
            plan = await bench.prepared(Act(("sh", "-c", "echo $TOKEN"), sleeps().script))
            plan = replace(plan, options=JobOptions(secret_env=(("TOKEN", "env:TOP_SECRET"),)))
            (ref,) = bench.refs(plan)
            await bench.engine.create(plan, [ref])
            monkeypatch.delenv("TOP_SECRET")
            again = replace(ref, restart=1)
            await bench.engine.create(plan, [again])
            await bench.engine.start(plan, [again])
            assert await bench.texts(again) == ["x"]

    asyncio.run(main())


def test_the_primary_starts_first_and_is_not_waited_for_for_ever(namespace: str) -> None:
    async def main() -> None:
        async with bench_on(Configured(replace(ADMIN, namespace=namespace))) as bench:
            plan, refs = await bench.created(*[sleeps()] * 3)
            await bench.engine.start(plan, refs)
            statuses = await bench.until(lambda seen: all(status.phase is Phase.RUNNING for status in seen.values()))
            api = await api_of(replace(ADMIN, namespace=namespace))
            pods = {ref.replica: await api.get("pods", ref.name) for ref in refs}
            await api.close()
            assert statuses.keys() == pods.keys()
            scheduled = {
                name: next(c["lastTransitionTime"] for c in pod["status"]["conditions"] if c["type"] == "PodScheduled")
                for name, pod in pods.items()
            }
            assert scheduled["workerpool0-0"] == min(scheduled.values())

    asyncio.run(main())


def test_a_stopped_replica_keeps_its_log_and_exit_code_for_everybody(namespace: str) -> None:
    async def main() -> None:
        async with bench_on(Configured(replace(ADMIN, namespace=namespace))) as bench:
            act = Act(
                ("sh", "-c", "trap 'echo bye; exit 7' TERM; echo ready; while :; do sleep 0.05; done"), sleeps().script
            )
            _, refs = await bench.launched(act, stubborn())
            for ref in refs:
                await bench.until_it_says(ref, "ready")
            await bench.engine.stop(refs, 0.5)
            await asyncio.sleep(3)
            seen = await bench.seen()
            assert [seen[name].exit_code for name in sorted(seen)] == [7, 137]
            assert await bench.texts(refs[0]) == ["ready", "bye"]

    asyncio.run(main())


def test_what_the_api_server_refuses_is_told_in_its_words(namespace: str) -> None:
    async def main() -> None:
        async with bench_on(Configured(replace(ADMIN, namespace=namespace))) as bench:
            plan = await bench.prepared(prints(1))
            plan = replace(plan, pools=(replace(plan.pools[0], image="  "),))
            with pytest.raises(LaunchRefused, match=r"the Pod of workerpool0-0 was refused by the API server: .*image"):
                await bench.engine.create(plan, bench.refs(plan))

    asyncio.run(main())
    assert left_of(namespace, "pods") == []


def test_two_jobs_and_two_clients_share_one_watch(namespace: str) -> None:
    async def main() -> None:
        backend = replace(ADMIN, namespace=namespace)
        async with bench_on(Configured(backend)) as bench:
            assert bench.engine is bench.other
            await bench.created(sleeps())
            async with bench.engine.watch(bench.job_id), bench.other.watch(new_job_id()):
                await asyncio.sleep(0.5)
                before = bench.engine._api.calls  # type: ignore[attr-defined]
                await asyncio.sleep(2.0)
                assert bench.engine._api.calls == before, "nothing is asked while nothing happens"  # type: ignore[attr-defined]

    asyncio.run(main())
