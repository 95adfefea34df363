"""What is sent to Kubernetes, and how its answers are read: pure, without a cluster."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_customjob.backends import backend_of
from airflow_customjob.backends.base import EngineBusy, EngineError, LaunchRefused, Phase, Reason, ReplicaRef
from airflow_customjob.backends.kubernetes import KubernetesBackend, judge, manifests, names, packages
from airflow_customjob.backends.kubernetes.api import ApiError
from airflow_customjob.backends.kubernetes.judge import SILENT_NODE, read_pods, status_of
from airflow_customjob.backends.kubernetes.logs import Place, PodLog, _lines, _nanoseconds, _Overlap
from airflow_customjob.backends.kubernetes.reasons import Reasons
from airflow_customjob.backends.kubernetes.refusals import quantity, refusal
from airflow_customjob.backends.kubernetes.sharing import api_of
from airflow_customjob.backends.kubernetes.template import merged
from airflow_customjob.packaging.install import USER_BASE
from airflow_customjob.plan.capabilities import capabilities_of
from airflow_customjob.plan.job_plan import make_plan
from airflow_customjob.plan.types import ClusterSpec, JobId, JobOptions, JobPlan, Prepared
from tests.plan.requests import JOB, container, package, plan, request

NOW = 1_800_000_000.0
REF = ReplicaRef(JobId("123456789012345678"), 2, 1, "workerpool1-0", 3)


def rendered(made: JobPlan, backend: KubernetesBackend | None = None) -> dict[str, dict[str, Any]]:
    return {item["metadata"]["name"]: item for item in (backend or KubernetesBackend()).render(made)}


def pods_of(made: JobPlan, backend: KubernetesBackend | None = None) -> list[dict[str, Any]]:
    """Of replicas."""
    return [
        item for item in rendered(made, backend).values() if item["kind"] == "Pod" and names.ref_of(item["metadata"])
    ]


def resolvers_of(made: JobPlan, backend: KubernetesBackend | None = None) -> list[dict[str, Any]]:
    return [
        item
        for item in rendered(made, backend).values()
        if item["kind"] == "Pod" and item not in pods_of(made, backend)
    ]


def replica_of(pod: dict[str, Any]) -> dict[str, Any]:
    (found,) = [item for item in pod["spec"]["containers"] if item["name"] == names.CONTAINER]
    return dict(found)


# -- manifests ------------------------------------------------------------------------------------------------------


def as_kubernetes_expands(text: str) -> str:
    """Kubernetes' own rule, written from its documentation: ``$$`` is a dollar, ``$(X)`` a reference, any other ``$`` itself."""
    out, index = "", 0
    while index < len(text):
        if text[index] == "$" and index + 1 < len(text):
            if text[index + 1] == "$":
                out, index = out + "$", index + 2
                continue
            if text[index + 1] == "(" and ")" in text[index:]:
                out, index = out + "EXPANDED", text.index(")", index) + 1
                continue
        out, index = out + text[index], index + 1
    return out


@given(st.text(alphabet="$()aA{}", max_size=12))
def test_no_text_is_expanded_a_second_time(text: str) -> None:
    assert as_kubernetes_expands(manifests.literal(text)) == text


def test_a_pod_has_all_that_its_replica_needs() -> None:
    made = plan(container(args=["$$(X)"]), container(2), backend="kubernetes")
    pod = pods_of(made)[1]
    spec, replica = pod["spec"], replica_of(pod)
    assert spec["hostname"] == made.replicas[1].host
    assert spec["subdomain"] == f"customjob-{JOB}"
    assert spec["dnsConfig"]["searches"] == [f"customjob-{JOB}.default.svc.cluster.local"]
    assert spec["schedulingGates"] == [{"name": "airflow-customjob/gang"}]
    assert (spec["restartPolicy"], spec["enableServiceLinks"]) == ("Never", False)
    assert spec["automountServiceAccountToken"] is False
    assert "serviceAccountName" not in spec
    assert {"name": "RANK", "value": "1"} in replica["env"]
    assert replica["resources"] == {"requests": {"cpu": "3200m", "memory": str(15 * 2**30 * 8 // 10)}}
    assert {"name": "customjob-shm", "mountPath": "/dev/shm"} in replica["volumeMounts"]
    assert replica_of(pods_of(made)[0])["args"] == ["$$(X)"]
    assert spec["activeDeadlineSeconds"] > made.timeout


def test_sizes_of_machine_types_can_be_given() -> None:
    sizes = {"n1-standard-4": {"cpu": 1, "node_selector": {"pool": "small"}}, "*": {}}
    pod = pods_of(plan(backend="kubernetes"), KubernetesBackend(machine_types=sizes))[0]
    assert replica_of(pod)["resources"] == {"requests": {"cpu": "1"}}
    assert pod["spec"]["nodeSelector"] == {"pool": "small"}
    none = pods_of(plan(backend="kubernetes"), KubernetesBackend(machine_types={"*": {}}))[0]
    assert replica_of(none)["resources"] == {}
    with pytest.raises(ValueError, match=r"machine_types\['n1-standard-4'\] has gpu: expected cpu"):
        pods_of(plan(backend="kubernetes"), KubernetesBackend(machine_types={"*": {"gpu": 1}}))


def test_what_vertex_ai_calls_by_its_own_names_becomes_kubernetes() -> None:
    pool = container() | {
        "diskSpec": {"bootDiskSizeGb": 200},
        "nfsMounts": [{"server": "10.0.0.2", "path": "/share", "mountPoint": "data"}],
        "machineSpec": {
            "machineType": "n1-standard-4",
            "acceleratorType": "NVIDIA_TESLA_T4",
            "acceleratorCount": 2,
        },
    }
    made = plan(pool, backend="kubernetes", serviceAccount="trainer@p.iam.gserviceaccount.com")
    pod = pods_of(made, KubernetesBackend(gpu_resource="amd.com/gpu"))[0]
    replica = replica_of(pod)
    assert replica["resources"]["limits"] == {"amd.com/gpu": "2"}
    assert replica["resources"]["requests"]["ephemeral-storage"] == "200Gi"
    assert {"name": "customjob-nfs-0", "mountPath": "/mnt/nfs/data"} in replica["volumeMounts"]
    assert {"name": "customjob-nfs-0", "nfs": {"server": "10.0.0.2", "path": "/share"}} in pod["spec"]["volumes"]
    assert pod["spec"]["serviceAccountName"] == "trainer"
    assert pod["spec"]["automountServiceAccountToken"] is True


BUCKETS = [
    ({"bucket_root": "/srv/b"}, {"hostPath": {"path": "/srv/b", "type": "DirectoryOrCreate"}}),
    ({"bucket_root": "a-claim"}, {"persistentVolumeClaim": {"claimName": "a-claim"}}),
    ({"gcsfuse": True}, {"csi": {"driver": "gcsfuse.csi.storage.gke.io", "volumeAttributes": {"bucketName": "_"}}}),
]


@pytest.mark.parametrize(("arguments", "source"), BUCKETS)
def test_buckets_are_a_volume_at_gcs(arguments: dict[str, Any], source: dict[str, Any]) -> None:
    (pod,) = pods_of(plan(container(), backend="kubernetes"), KubernetesBackend(**arguments))
    assert {"name": "customjob-gcs", **source} in pod["spec"]["volumes"]
    assert {"name": "customjob-gcs", "mountPath": "/gcs"} in replica_of(pod)["volumeMounts"]
    assert ("gke-gcsfuse/volumes" in pod["metadata"]["annotations"]) == ("gcsfuse" in arguments)


def test_a_google_key_is_a_volume_of_the_replica_alone() -> None:
    options = JobOptions(google_credentials="/no/such/key.json")
    made = plan(package(), backend="kubernetes", options=options)
    (secret,) = [item for item in rendered(made).values() if item["kind"] == "Secret"]
    (pod,), (resolver,) = pods_of(made), resolvers_of(made)
    assert secret["stringData"] == {"key.json": "***"}
    assert "customjob-google" in {mount["name"] for mount in replica_of(pod)["volumeMounts"]}
    for installer in [
        *pod["spec"]["initContainers"],
        *resolver["spec"]["initContainers"],
    ]:  # a package's own code runs there
        assert "customjob-google" not in {mount["name"] for mount in installer["volumeMounts"]}


def test_files_are_kept_once_and_put_together_again() -> None:
    made = plan(container(), container(50), backend="kubernetes", options=JobOptions(cluster_spec=ClusterSpec.FILE))
    objects = rendered(made)
    size = sum(len(json.dumps(item)) for item in objects.values() if item["kind"] == "ConfigMap")
    assert size < 2 * sum(len(text) for _, text in made.files_of(made.primary))
    for replica, pod in zip(made.replicas, pods_of(made), strict=True):
        (maker,) = pod["spec"]["initContainers"]
        maps = {
            volume["name"]: objects[volume["configMap"]["name"]]["data"]
            for volume in pod["spec"]["volumes"]
            if "configMap" in volume
        }
        parts = [maps[mount["name"]] for mount in maker["volumeMounts"] if mount["name"] in maps]
        texts = [
            part["head"] + as_kubernetes_expands(own["value"]) + part["tail"]
            for part, own in zip(parts, maker["env"], strict=True)
        ]
        assert texts == [text for _, text in made.files_of(replica)]
        assert re.findall(r">(\S+)$", maker["command"][2], re.MULTILINE) == [path for path, _ in replica.files]


def test_three_thousand_replicas_are_rendered_in_seconds() -> None:
    made = plan(container(), container(2999), backend="kubernetes", options=JobOptions(cluster_spec=ClusterSpec.FILE))
    assert len(pods_of(made)) == 3000


def test_packages_are_installed_before_the_replica_starts() -> None:
    pod = pods_of(plan(package(), backend="kubernetes"))[0]
    assert [init["name"] for init in pod["spec"]["initContainers"]] == ["packages"]
    assert replica_of(pod)["command"] == ["python3", "-m", "trainer.task"]
    assert {"name": "PYTHONUSERBASE", "value": USER_BASE} in replica_of(pod)["env"]


def test_one_pod_settles_the_versions_of_pools_that_install_alike_and_may_do_nothing_else() -> None:
    other = package(executorImageUri="europe-docker.pkg.dev/vertex-ai/training/tf-cpu.2-13:latest")
    made = plan(
        package(env=[{"name": "PIP_INDEX_URL", "value": "https://i.example"}]), package(7), other, backend="kubernetes"
    )
    context = {"securityContext": {"runAsUser": 7, "privileged": True, "capabilities": {"add": ["SYS_ADMIN"]}}}
    backend = KubernetesBackend(
        service_account="trainer",
        labels={"team": "a"},
        machine_types={"*": {"node_selector": {"pool": "x"}}},
        pod_template={
            "spec": {"containers": [{"name": "replica", **context}], "tolerations": [{"operator": "Exists"}]}
        },
    )
    resolver, of_other = resolvers_of(made, backend)
    assert of_other["metadata"]["name"] == f"customjob-{JOB}-1-pins-2"
    assert resolver["metadata"]["name"] == f"customjob-{JOB}-1-pins-0"
    assert resolver["metadata"]["labels"] == {"team": "a", **names.job_labels(JOB, "pins")}
    spec = resolver["spec"]
    assert (spec["automountServiceAccountToken"], spec.get("serviceAccountName")) == (False, None)
    assert (spec["tolerations"], spec["nodeSelector"]) == ([{"operator": "Exists"}], {"pool": "x"})
    (installs,) = spec["initContainers"]
    assert installs["securityContext"] == {
        "runAsUser": 7,
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
    }
    assert installs["env"] == pods_of(made, backend)[0]["spec"]["initContainers"][0]["env"], (
        "as where it is installed again"
    )
    assert {"name": "PIP_INDEX_URL", "value": "https://i.example"} in installs["env"]
    (tells,) = spec["containers"]
    assert [mount["name"] for mount in tells["volumeMounts"]] == ["customjob-work"]
    assert "env" not in tells


def test_replicas_that_install_alike_have_the_same_versions() -> None:
    artifacts, pins = {"0": "key/one-1.tar.gz", "1": "key/one-1.tar.gz"}, {"0": ({"dep": "1.0"},)}
    settled = make_plan(
        request(package(), package(2)),
        capabilities_of("kubernetes"),
        job_id=JOB,
        prepared=Prepared(artifacts=artifacts, pins=pins),
    )
    told = packages.config_map_of(settled, settled.pools[1], pins["0"])
    assert json.loads(told["data"]["pins.json"]) == [{"dep": "1.0"}]
    sources = [volume["projected"]["sources"] for pod in pods_of(settled) for volume in pod["spec"]["volumes"][1:2]]
    assert (
        sources
        == [[{"secret": {"name": f"customjob-{JOB}-1-package-0"}}, {"configMap": {"name": told["metadata"]["name"]}}]]
        * 3
    )


def test_no_autoscaler_takes_a_node_away_unless_the_user_lets_it() -> None:
    made, safe = plan(backend="kubernetes"), "cluster-autoscaler.kubernetes.io/safe-to-evict"
    template = {"metadata": {"annotations": {safe: "true"}}}
    for backend, expected in (
        (KubernetesBackend(), "false"),
        (KubernetesBackend(annotations={safe: "true"}), "true"),
        (KubernetesBackend(pod_template=template), "true"),
    ):
        assert pods_of(made, backend)[0]["metadata"]["annotations"][safe] == expected


def test_a_template_is_merged_under_ours() -> None:
    template = {
        "metadata": {"labels": {"team": "a"}},
        "spec": {
            "restartPolicy": "Always",
            "tolerations": [{"operator": "Exists"}],
            "dnsConfig": {"searches": ["example.org"], "nameservers": ["10.0.0.10"]},
            "containers": [
                {
                    "name": "base",
                    "image": "ignored",
                    "env": [{"name": "RANK", "value": "no"}, {"name": "MINE", "value": "1"}],
                    "volumeMounts": [{"name": "big", "mountPath": "/dev/shm"}],
                    "securityContext": {"runAsUser": 1000},
                },
                {"name": "sidecar", "image": "proxy:1"},
            ],
            "volumes": [{"name": "big", "emptyDir": {}}],
        },
    }
    made = plan(container(), container(), backend="kubernetes")
    pod = pods_of(made, KubernetesBackend(pod_template=template, labels={"team": "b"}))[0]
    spec, replica = pod["spec"], replica_of(pod)
    assert spec["restartPolicy"] == "Never"
    assert spec["tolerations"] == [{"operator": "Exists"}]
    assert spec["dnsConfig"]["searches"][1:] == ["example.org"]
    assert spec["dnsConfig"]["nameservers"] == ["10.0.0.10"]
    assert [item["name"] for item in spec["containers"]] == ["replica", "sidecar"]
    assert replica["image"] == made.pools[0].image
    assert [item["value"] for item in replica["env"] if item["name"] in ("RANK", "MINE")] == ["0", "1"]
    assert replica["securityContext"] == {"runAsUser": 1000}
    assert [mount for mount in replica["volumeMounts"] if mount["mountPath"] == "/dev/shm"] == [
        {"name": "big", "mountPath": "/dev/shm"}
    ]
    assert pod["metadata"]["labels"]["team"] == "b"


@given(st.dictionaries(st.text(max_size=2), st.integers() | st.lists(st.text(max_size=2))))
def test_merging_with_nothing_changes_nothing(value: Any) -> None:
    assert merged({}, {"a": value}) == {"a": value} == merged({"a": value}, {})


def test_a_queue_makes_a_pod_group_of_each_attempt() -> None:
    made = plan(container(), container(3), backend="kubernetes")
    pods = pods_of(made, KubernetesBackend(queue="team"))
    assert {pod["metadata"]["labels"]["kueue.x-k8s.io/pod-group-name"] for pod in pods} == {f"customjob-{JOB}-1-0"}
    assert {pod["metadata"]["annotations"]["kueue.x-k8s.io/pod-group-total-count"] for pod in pods} == {"4"}


def test_a_configuration_survives_serialization() -> None:
    backend = KubernetesBackend(
        namespace="n", pod_template={"spec": {"tolerations": [{"operator": "Exists"}]}}, image_pull_secrets=("a",)
    )
    assert backend_of(json.loads(json.dumps(backend.serialize()))) == backend
    assert hash(backend)
    assert backend.serialize()["pod_template"] == {"spec": {"tolerations": [{"operator": "Exists"}]}}
    assert backend_of("kubernetes") == KubernetesBackend()


@pytest.mark.parametrize(("given", "named"), [("/no/such/file", "/no/such/file"), ("", "~/.kube/config")])
def test_a_kubeconfig_that_is_not_there_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, given: str, named: str
) -> None:
    monkeypatch.setenv("KUBECONFIG", given)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(EngineError, match=f"no way to a Kubernetes cluster: {named} does not exist, .*KUBECONFIG"):
        asyncio.run(api_of(KubernetesBackend()))


def test_names_fit_into_a_dns_label() -> None:
    ref = ReplicaRef(JobId("9" * 18), 999, 3, "workerpool3-9999", 5)
    assert len(ref.name) <= 63
    assert names.ref_of({"labels": names.replica_labels(ref)}) == ref


# -- judgement ------------------------------------------------------------------------------------------------------


def pod(
    state: dict[str, Any] | None = None,
    *,
    gate: str = "",
    stopped: bool = False,
    metadata: dict[str, Any] | None = None,
    **status: Any,
) -> dict[str, Any]:
    annotations = {names.DIGEST: "d"} | ({names.STOPPED: "x"} if stopped else {})
    statuses = [{"name": "sidecar", "state": {"running": {}}}]
    if state is not None:
        statuses.append({"name": names.CONTAINER, "state": state})
    return {
        "metadata": {
            "name": REF.name,
            "labels": names.replica_labels(REF),
            "annotations": annotations,
            **(metadata or {}),
        },
        "spec": {"nodeName": "n1", **({"schedulingGates": [{"name": gate}]} if gate else {})},
        "status": {"containerStatuses": statuses, **status},
    }


def ended(code: int, reason: str = "", message: str = "", at: str = "2026-01-01T00:00:10Z") -> dict[str, Any]:
    reason = reason or ("Error" if code else "Completed")
    return {
        "terminated": {
            "exitCode": code,
            "reason": reason,
            "message": message,
            "startedAt": "2026-01-01T00:00:00Z",
            "finishedAt": at,
        }
    }


DISRUPTED = [
    {
        "type": "DisruptionTarget",
        "status": "True",
        "reason": "EvictionByEvictionAPI",
        "message": "Eviction API: evicting",
        "lastTransitionTime": "2026-01-01T00:00:08Z",
    }
]
DELETED = {"deletionTimestamp": "2026-01-01T00:00:38Z", "deletionGracePeriodSeconds": 30}
LONG_AGO = {"deletionTimestamp": "2026-01-01T00:00:00Z", "deletionGracePeriodSeconds": 0}
PULLING = {
    "waiting": {"reason": "ImagePullBackOff", "message": 'Back-off pulling image "x": dial tcp: connection refused'}
}
NO_IMAGE = {"waiting": {"reason": "ErrImagePull", "message": "rpc error: x:404: not found"}}
UNSCHEDULABLE = [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes"}]
TOO_LARGE = [{**UNSCHEDULABLE[0], "message": "0/1 nodes are available: 1 Insufficient cpu."}]

CASES: dict[str, tuple[dict[str, Any], Phase, int | None, Reason | None, str]] = {
    "gated": (pod(gate=names.GATE), Phase.CREATED, None, None, ""),
    "unschedulable": (pod(conditions=UNSCHEDULABLE), Phase.WAITING, None, None, "Unschedulable: 0/1 nodes"),
    "too large for its nodes": (pod(conditions=TOO_LARGE), Phase.WAITING, None, None, "machine_types says how much"),
    "queued": (pod(gate="kueue.x-k8s.io/admission"), Phase.WAITING, None, None, "Kueue has not admitted the job yet"),
    "creating": (pod({"waiting": {"reason": "ContainerCreating"}}), Phase.WAITING, None, None, "n1 prepares it"),
    "registry away": (pod(PULLING), Phase.WAITING, None, None, "connection refused"),
    "no image": (pod(NO_IMAGE), Phase.EXITED, 128, Reason.START_ERROR, "not found"),
    "bad configuration": (
        pod({"waiting": {"reason": "CreateContainerConfigError", "message": 'secret "s" not found'}}),
        Phase.EXITED,
        128,
        Reason.START_ERROR,
        'secret "s" not found',
    ),
    "slow runtime": (
        pod({"waiting": {"reason": "CreateContainerError", "message": "context deadline exceeded"}}),
        Phase.WAITING,
        None,
        None,
        "context deadline exceeded",
    ),
    "running": (pod({"running": {"startedAt": "2026-01-01T00:00:00Z"}}), Phase.RUNNING, None, None, ""),
    "succeeded beside a running sidecar": (pod(ended(0), phase="Running"), Phase.EXITED, 0, Reason.COMPLETED, ""),
    "failed": (pod(ended(3)), Phase.EXITED, 3, Reason.ERROR, ""),
    "killed": (pod(ended(137)), Phase.EXITED, 137, Reason.ERROR, ""),
    "out of memory": (pod(ended(137, "OOMKilled")), Phase.EXITED, 137, Reason.OOM_KILLED, ""),
    "no command": (
        pod(ended(128, "StartError", "no such file")),
        Phase.EXITED,
        128,
        Reason.START_ERROR,
        "no such file",
    ),
    "evicted, politely": (pod(ended(0), conditions=DISRUPTED), Phase.LOST, 0, Reason.LOST, "Eviction API: evicting"),
    "evicted after its end": (
        pod(ended(0, at="2026-01-01T00:00:07Z"), conditions=DISRUPTED),
        Phase.EXITED,
        0,
        Reason.COMPLETED,
        "",
    ),
    "deleted, politely": (pod(ended(0), metadata=DELETED), Phase.LOST, 0, Reason.LOST, "deleted"),
    "stopped by us": (pod(ended(143), stopped=True, reason="DeadlineExceeded"), Phase.EXITED, 143, Reason.ERROR, ""),
    "over its own deadline": (
        pod(ended(143), reason="DeadlineExceeded"),
        Phase.LOST,
        143,
        Reason.LOST,
        "DeadlineExceeded",
    ),
    "node evicts": (
        pod(phase="Failed", reason="Evicted", message="low on memory"),
        Phase.LOST,
        None,
        Reason.LOST,
        "low on",
    ),
    "unknown end": (pod(ended(137, "ContainerStatusUnknown")), Phase.LOST, 137, Reason.LOST, "ContainerStatusUnknown"),
    "silent node": (pod({"running": {}}, metadata=LONG_AGO), Phase.LOST, None, Reason.LOST, "n1 does not answer"),
    "failed installation": (
        pod(phase="Failed", initContainerStatuses=[{"name": "packages", "state": ended(2)}]),
        Phase.EXITED,
        2,
        Reason.ERROR,
        "init container packages failed: Error",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_pod_is_judged(case: str) -> None:
    given_pod, phase, code, reason, words = CASES[case]
    status = status_of(given_pod, NOW)
    assert status is not None
    (listed,) = read_pods(msgspec.json.encode({"items": [given_pod]}))["items"]
    assert status_of(listed, NOW) == status, "what a list leaves out is asked for"
    assert (status.ref, status.digest, status.node) == (REF, "d", "n1")
    assert (status.phase, status.exit_code, status.reason) == (phase, code, reason)
    assert status.queued is (case == "queued")
    assert words in status.message
    assert bool(words) == bool(status.message)


def test_a_pod_that_its_node_cannot_start_is_given_up_in_time() -> None:
    reasons = Reasons(api=None)  # type: ignore[arg-type]  # nothing is asked of the cluster

    def phase_after(seconds: float, shown: dict[str, Any]) -> Phase:
        status = status_of(shown, NOW + seconds)
        assert status is not None
        (explained,) = asyncio.run(reasons.explain([status], [shown], NOW + seconds))
        assert ("for 600 s: ImagePullBackOff" in explained.message) == (explained.phase is Phase.EXITED)
        return explained.phase

    starts = pod({"waiting": {"reason": "PodInitializing"}})
    assert phase_after(0, pod(PULLING)) is Phase.WAITING
    assert phase_after(590, starts) is Phase.WAITING
    assert phase_after(599, pod(PULLING)) is Phase.WAITING
    assert phase_after(1199, pod(PULLING)) is Phase.WAITING, "a pull that worked counts anew"
    assert phase_after(1200, pod(PULLING)) is Phase.EXITED


def test_a_deleted_pods_node_is_given_time() -> None:
    leaving = pod({"running": {}}, metadata=DELETED)
    at = 1767225638.0  # its deletionTimestamp
    assert status_of(leaving, at + SILENT_NODE - 1).phase is Phase.RUNNING  # type: ignore[union-attr]
    assert status_of(leaving, at + SILENT_NODE + 1).phase is Phase.LOST  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("status", "said"),
    [
        ({"conditions": DISRUPTED}, "EvictionByEvictionAPI: Eviction API: evicting"),
        ({"reason": "Evicted", "message": "low on memory"}, "Evicted: low on memory"),
        ({"reason": "DeadlineExceeded", "message": "too long"}, ""),
        ({}, ""),
    ],
)
def test_what_the_cluster_ended_is_told_from_what_ended_itself(status: dict[str, Any], said: str) -> None:
    """A Pod that settles versions is made again where the cluster took it away."""
    assert judge.disturbed({"metadata": {}, "status": {"phase": "Failed", **status}}) == said


def test_a_pod_of_somebody_else_is_none_of_ours() -> None:
    assert status_of({"metadata": {"labels": {"app": "x"}}}, NOW) is None


# -- refusals -------------------------------------------------------------------------------------------------------


def forbidden(said: str) -> ApiError:
    return ApiError("create pods", 403, "Forbidden", said)


QUOTA = 'pods "x" is forbidden: exceeded quota: q, requested: requests.cpu=500m, used: requests.cpu=1, limited: requests.cpu=1'


def gang(count: int, cpu: str) -> list[dict[str, Any]]:
    return [{"spec": {"containers": [{"resources": {"requests": {"cpu": cpu}}}]}}] * count


def test_a_quota_that_is_used_up_is_waited_for() -> None:
    assert isinstance(refusal(forbidden(QUOTA), "the Pod", "w", gang(2, "500m")), EngineBusy)


def test_a_quota_that_is_too_small_is_not() -> None:
    refused = refusal(forbidden(QUOTA), "the Pod", "w", gang(3, "500m"))
    assert isinstance(refused, LaunchRefused)
    assert refused.code == 8
    assert "All 3 replicas need 1.5 of requests.cpu" in refused.message


def test_a_missing_verb_names_itself() -> None:
    said = 'pods is forbidden: User "u" cannot create resource "pods" in API group "" in the namespace "n"'
    refused = refusal(forbidden(said), "the Pod", "w")
    assert isinstance(refused, LaunchRefused)
    assert "u lacks the verb 'create' on 'pods'" in refused.message


def test_a_webhook_is_named_as_the_one_who_refuses() -> None:
    said = 'admission webhook "policy.example.org" denied the request: no latest tag'
    refused = refusal(ApiError("create pods", 400, "", said), "the Pod of workerpool0-0", "workerpool0-0")
    assert isinstance(refused, LaunchRefused)
    assert "refused by an admission webhook" in refused.message
    assert "no latest tag" in refused.message


QUANTITIES = [
    ("500m", "0.5"),
    ("1Gi", str(2**30)),
    ("2", "2"),
    ("1e3", "1000"),
    ("1k", "1000"),
    ("250n", "2.5e-7"),
    ("0", "0"),
]


@pytest.mark.parametrize(("text", "value"), QUANTITIES)
def test_quantities(text: str, value: str) -> None:
    assert quantity(text) == Decimal(value)


def test_what_is_no_quantity_is_an_error() -> None:
    with pytest.raises(ValueError, match="'1 Gi' is no quantity"):
        quantity("1 Gi")


# -- places in a log ------------------------------------------------------------------------------------------------

SECOND = 10**9


def read_on(log: list[tuple[int, str]], place: Place) -> tuple[list[str], bool]:
    """What a reader gets who goes on from ``place``, as the API server filters by whole seconds."""
    overlap, given_lines, gap = _Overlap(place), [], False
    for at, text in log:
        if not place.given or at >= (place.second - 1) * SECOND:
            lines, is_gap = overlap.give((at, text, True))
            given_lines += [item[1] for item in lines]
            gap = gap or is_gap
    left = overlap.left()
    return given_lines + [item[1] for item in left or []], gap or left is not None


times = st.lists(st.integers(0, 4 * SECOND), max_size=30).map(
    lambda gaps: [1_000 * SECOND + sum(gaps[: index + 1]) // 4 for index in range(len(gaps))]
)


@given(times, st.data())
def test_a_log_goes_on_after_any_line(stamps: list[int], data: st.DataObject) -> None:
    """Also where lines have the same time, or a line of the other stream is a little late."""
    late = data.draw(st.lists(st.integers(0, 1000), min_size=len(stamps), max_size=len(stamps)))
    log = [(at - back, f"line {index}") for index, (at, back) in enumerate(zip(stamps, late, strict=True))]
    cut = data.draw(st.integers(0, len(log)))
    place = Place(names.CONTAINER)
    for at, _ in log[:cut]:
        place = place.after(at)
    rest, gap = read_on(log, Place.read(str(place)))
    assert not gap
    assert rest == [text for _, text in log[cut:]]


def test_a_line_that_is_late_across_the_turn_of_a_second_is_not_lost() -> None:
    """A line of standard error, stamped just before a second begins, behind one of standard output stamped just after."""
    log = [(1_000 * SECOND, "out"), (1_000 * SECOND - 1, "err"), (1_000 * SECOND + 5, "out again")]
    place = Place(names.CONTAINER).after(log[0][0])
    assert read_on(log, place) == (["err", "out again"], False)
    assert read_on(log, place.after(log[1][0])) == (["out again"], False)


def test_a_rotated_log_says_that_lines_may_be_missing() -> None:
    log = [(1_000 * SECOND + index * SECOND // 10, f"line {index}") for index in range(100)]
    place = Place(names.CONTAINER)
    for at, _ in log[:35]:
        place = place.after(at)
    rest, gap = read_on(log[60:], place)
    assert gap
    assert rest == [text for _, text in log[60:]]
    rest, gap = read_on(log[33:], place)
    assert gap
    assert rest == [text for _, text in log[35:]]


def test_the_end_of_a_log_that_is_gone_is_what_kubernetes_has_kept() -> None:
    log = PodLog(None, None, REF)  # type: ignore[arg-type]
    state = ended(1, message="Traceback\nValueError: no")
    gone = ApiError("GET log", 400, "BadRequest", "container not found")
    *lines, notice = log._last_words(state, Place(names.CONTAINER), 1, gone)
    assert [line.text for line in lines] == ["ValueError: no"]
    assert notice.notice
    assert "container not found" in notice.text
    given_before = Place(names.CONTAINER).after(SECOND)
    assert list(log._last_words(state, given_before, None, gone)) == []


STAMPS = [
    ("2026-01-01T00:00:00.123456789Z", 123456789),
    ("2026-01-01T00:00:00.1Z", 100000000),
    ("2026-01-01T00:00:00Z", 0),
    ("2026-01-01T02:00:00.5+02:00", 500000000),
]


@pytest.mark.parametrize(("stamp", "fraction"), STAMPS)
def test_time_stamps_are_read_to_the_nanosecond(stamp: str, fraction: int) -> None:
    assert _nanoseconds(stamp) == 1767225600 * SECOND + fraction


def test_what_a_node_says_in_the_place_of_a_log_is_no_line_of_it() -> None:
    """Regression: a log that its node could not read any more ended its reader with 'Invalid isoformat string'."""

    async def pieces() -> AsyncIterator[bytes]:
        yield b"2026-01-01T00:00:00.5Z one\nunable to retrieve container logs for containerd://0123"

    async def read() -> list[str]:
        return [text async for _, text, _ in _lines(pieces())]

    with pytest.raises(ApiError, match="unable to retrieve container logs"):
        asyncio.run(read())
