"""What is sent to Kubernetes for a job: pure data, the same for a dry run and for the real thing."""

from __future__ import annotations

import json
import math
import os.path
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow_customjob.backends.base import ReplicaRef
from airflow_customjob.backends.kubernetes import names, packages
from airflow_customjob.backends.kubernetes.template import merged
from airflow_customjob.packaging.install import USER_BASE
from airflow_customjob.plan.environment import GCS, GOOGLE_KEY
from airflow_customjob.plan.types import JobPlan, PoolPlan, ReplicaPlan

if TYPE_CHECKING:
    from airflow_customjob.backends.kubernetes.backend import KubernetesBackend

LAUNCH_BUDGET = 3600
MARGIN = 300
"""Seconds that a Pod may live beyond the job's timeout before its node ends it, if no supervisor is left to do so: the
timeout runs from when all replicas run, the Pod's own clock from when its node has taken it."""
PARTS = "/opt/customjob/parts"
"""Folder in a replica: the pieces that files are made of."""
KEY_FILE = os.path.basename(GOOGLE_KEY)
REDACTED = "***"
_SIZES = frozenset({"cpu", "memory", "node_selector"})
_EXPANDED = re.compile(r"\$(?=[$(])")


def literal(text: str) -> str:
    """Kubernetes expands ``$(VAR)`` and ``$$`` in commands and variables; the plan has done so already."""
    return _EXPANDED.sub("$$", text)


def manifests_of(plan: JobPlan, backend: KubernetesBackend) -> list[dict[str, Any]]:
    """Everything that would be created, the first time, as for ``kubectl apply``; secrets are redacted."""
    namespace = backend.namespace or "default"
    parts = [service(plan), *files(plan)]
    parts += [resolver(plan, pool, backend) for pool in packages.installed_by_replicas(plan)]
    if names_ := secret_names(plan):
        parts.append(secret_env(plan, dict.fromkeys(names_, REDACTED)))
    refs = [ReplicaRef(plan.job_id, plan.generation, 0, replica.name, 0) for replica in plan.replicas]
    parts += pods(plan, refs, backend, namespace).values()
    for part in parts:
        part["metadata"]["namespace"] = namespace
    return parts


# -- what a job has beside its Pods ---------------------------------------------------------------------------------


def service(plan: JobPlan) -> dict[str, Any]:
    """Gives every replica's host name an address, also before it is ready."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": names.object_name(plan.job_id), "labels": names.job_labels(plan.job_id, names.NETWORK)},
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": {**names.MANAGED, names.JOB: plan.job_id},
        },
    }


def files(plan: JobPlan) -> list[dict[str, Any]]:
    """What the replicas' files have in common: a thousand copies of a long CLUSTER_SPEC are more than a cluster's own
    database holds."""
    return [
        _config_map(plan, _files_name(plan, number), names.FILES, {"head": text.head, "tail": text.tail})
        for number, text in enumerate(plan.shared)
    ]


def secret_names(plan: JobPlan) -> tuple[str, ...]:
    """What the job's Secret holds: variables, and the key file of Google Cloud, whose name no variable can have."""
    key = (KEY_FILE,) if plan.options.google_credentials else ()
    return (*(name for name, _ in plan.options.secret_env), *key)


def secret_env(plan: JobPlan, values: Mapping[str, str]) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": _secret_name(plan), "labels": names.job_labels(plan.job_id, names.SECRET)},
        "stringData": dict(values),
    }


def resolver(plan: JobPlan, pool: PoolPlan, backend: KubernetesBackend) -> dict[str, Any]:
    """The Pod that settles the versions of what a pool's packages depend on; it runs where the pool may, and with its variables."""
    replica = next(replica for replica in plan.replicas if replica.pool == pool.index)
    context = _context(plan, backend, backend.namespace or "default")
    pod = packages.resolver(plan, pool, _env(plan, replica), context.template, backend)
    if selector := (context.size(pool) or {}).get("node_selector"):
        pod["spec"]["nodeSelector"] = {**pod["spec"].get("nodeSelector", {}), **selector}
    return pod


def owned(manifest: dict[str, Any], owner: str | None) -> dict[str, Any]:
    """:param owner: uid of the job's record; what it owns goes with it."""
    if owner is None:
        return manifest
    reference = {"apiVersion": "v1", "kind": "ConfigMap", "name": "", "uid": owner}
    metadata = manifest["metadata"]
    reference["name"] = names.object_name(metadata["labels"][names.JOB])
    return {**manifest, "metadata": {**metadata, "ownerReferences": [reference]}}


def _config_map(plan: JobPlan, name: str, kind: str, data: dict[str, str]) -> dict[str, Any]:
    metadata = {"name": name, "labels": names.job_labels(plan.job_id, kind)}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}


def _secret_name(plan: JobPlan) -> str:
    return names.object_name(plan.job_id, plan.generation, "env")


def _files_name(plan: JobPlan, number: int) -> str:
    return names.object_name(plan.job_id, plan.generation, names.FILES, number)


# -- a replica ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Context:
    """What all Pods of a job have in common, read once.

    :param sizes: the backend's ``machine_types``.
    """

    plan: JobPlan
    backend: KubernetesBackend
    namespace: str
    template: dict[str, Any]
    sizes: dict[str, Any]
    labels: dict[str, str]
    annotations: dict[str, str]

    def size(self, pool: PoolPlan) -> dict[str, Any] | None:
        """What ``machine_types`` says of the pool's machine type; None: nothing.

        :raises ValueError: with a key that means nothing.
        """
        size = self.sizes.get(pool.machine_type, self.sizes.get("*"))
        if unknown := set(size or {}) - _SIZES:
            raise ValueError(
                f"KubernetesBackend: machine_types[{pool.machine_type!r}] has {', '.join(sorted(unknown))}: "
                f"expected {', '.join(sorted(_SIZES))}"
            )
        return size


def _context(plan: JobPlan, backend: KubernetesBackend, namespace: str) -> _Context:
    return _Context(
        plan,
        backend,
        namespace,
        template_of(backend),
        backend.mapping("machine_types"),
        backend.mapping("labels"),
        backend.mapping("annotations"),
    )


def pods(
    plan: JobPlan, refs: Sequence[ReplicaRef], backend: KubernetesBackend, namespace: str
) -> dict[ReplicaRef, dict[str, Any]]:
    """The Pods of these incarnations, each held back by its scheduling gate."""
    pools = {pool.index: pool for pool in plan.pools}
    context = _context(plan, backend, namespace)
    made = {}
    for ref in refs:
        replica = plan.replica(ref.replica)
        made[ref] = _pod(context, ref, replica, pools[replica.pool])
    return made


def _pod(context: _Context, ref: ReplicaRef, replica: ReplicaPlan, pool: PoolPlan) -> dict[str, Any]:
    plan, backend = context.plan, context.backend
    name = names.object_name(plan.job_id)
    container, volumes, installers = _parts(context, replica, pool)
    spec: dict[str, Any] = {
        "hostname": replica.host,
        "subdomain": name,
        "dnsConfig": {"searches": [f"{name}.{context.namespace}.svc.{backend.cluster_domain}"]},
        "restartPolicy": "Never",
        "enableServiceLinks": False,
        "shareProcessNamespace": backend.share_processes,
        "terminationGracePeriodSeconds": max(1, math.ceil(plan.options.stop_grace)),
        "schedulingGates": [{"name": names.GATE}],
        "containers": [container],
        "volumes": volumes,
    }
    account = plan.service_account.partition("@")[0] or backend.service_account
    spec["automountServiceAccountToken"] = bool(account)
    if account:
        spec["serviceAccountName"] = account
    if plan.timeout:
        spec["activeDeadlineSeconds"] = math.ceil(plan.timeout) + LAUNCH_BUDGET + MARGIN
    if backend.image_pull_secrets:
        spec["imagePullSecrets"] = [{"name": secret} for secret in backend.image_pull_secrets]
    if installers:
        spec["initContainers"] = installers
    if selector := (context.size(pool) or {}).get("node_selector"):
        spec["nodeSelector"] = selector
    labels, annotations = _group(plan, ref, backend)
    ours = {
        "metadata": {
            "name": ref.name,
            "labels": {**context.labels, **labels, **names.replica_labels(ref)},
            "annotations": {
                **({"gke-gcsfuse/volumes": "true"} if backend.gcsfuse else {}),
                **context.annotations,
                **annotations,
                names.DIGEST: plan.digest,
                names.DISPLAY_NAME: plan.display_name,
            },
        },
        "spec": spec,
    }
    pod = {"apiVersion": "v1", "kind": "Pod", **merged(context.template, ours)}
    _equip(pod["spec"], {installer["name"] for installer in installers})
    return pod


def _equip(spec: dict[str, Any], installers: set[str]) -> None:
    """Our init containers may do and request what the replica's container does: what a namespace demands (PodSecurity, a
    quota) it demands of each container, and what an init container requests a Pod has anyway."""
    replica = next(container for container in spec["containers"] if container["name"] == names.CONTAINER)
    same = {key: replica[key] for key in ("imagePullPolicy", "resources", "securityContext") if key in replica}
    for container in spec.get("initContainers", ()):
        if container["name"] in installers:
            container.update({key: value for key, value in same.items() if key not in container})


def _parts(
    context: _Context, replica: ReplicaPlan, pool: PoolPlan
) -> tuple[dict[str, Any], list[dict[str, Any]], list[dict[str, Any]]]:
    """The replica's container, volumes, and init containers."""
    plan, backend = context.plan, context.backend
    env = _env(plan, replica)
    volumes: list[dict[str, Any]] = []
    mounts: list[dict[str, Any]] = []
    installers: list[dict[str, Any]] = []

    def mount(name: str, path: str, **source: Any) -> dict[str, Any]:
        volumes.append({"name": name, **source})
        return {"name": name, "mountPath": path}

    if "/dev/shm" not in _mounted(context.template):  # noqa: S108 - in the replica
        limit = {"sizeLimit": backend.shm_size} if backend.shm_size else {}
        mounts.append(mount("customjob-shm", "/dev/shm", emptyDir={"medium": "Memory", **limit}))  # noqa: S108 - likewise
    if buckets := _buckets(backend):
        mounts.append(mount("customjob-gcs", GCS, **buckets))
    if plan.options.google_credentials:
        key: dict[str, Any] = {"secretName": _secret_name(plan), "items": [{"key": KEY_FILE, "path": KEY_FILE}]}
        mounts.append(mount("customjob-google", os.path.dirname(GOOGLE_KEY), secret=key) | {"readOnly": True})
    for number, share in enumerate(pool.nfs_mounts):
        source: dict[str, Any] = {"server": share.server, "path": share.path}
        mounts.append(mount(f"customjob-nfs-{number}", f"/mnt/nfs/{share.mount_point}", nfs=source))
    if replica.files:
        installers.append(_file_maker(context, replica, pool, mounts, mount))
    if pool.package is not None:
        if not packages.is_built(plan, pool):
            volumes += packages.volumes_of(plan, pool, pinned=packages.pins_of(plan, pool) is not None)
            mounts.append(packages.installed())
            installers.append(packages.installer(pool.image, env))
        env = [variable for variable in env if variable["name"] != "PYTHONUSERBASE"]
        env.append({"name": "PYTHONUSERBASE", "value": USER_BASE})
    container: dict[str, Any] = {
        "name": names.CONTAINER,
        "image": packages.image_of(plan, pool),
        "env": env,
        "resources": _resources(context, pool),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": mounts,
    }
    if replica.command:
        container["command"] = [literal(word) for word in replica.command]
    if replica.args:
        container["args"] = [literal(word) for word in replica.args]
    return container, volumes, installers


def _env(plan: JobPlan, replica: ReplicaPlan) -> list[dict[str, Any]]:
    plain = [{"name": name, "value": literal(value)} for name, value in replica.env]
    secret = {"name": _secret_name(plan)}
    return plain + [
        {"name": name, "valueFrom": {"secretKeyRef": {**secret, "key": name}}} for name, _ in plan.options.secret_env
    ]


def _buckets(backend: KubernetesBackend) -> dict[str, Any]:
    if backend.gcsfuse:  # "_": every bucket that the ServiceAccount may see, each as a folder
        return {"csi": {"driver": "gcsfuse.csi.storage.gke.io", "volumeAttributes": {"bucketName": "_"}}}
    if not backend.bucket_root:
        return {}
    if backend.bucket_root.startswith("/"):
        return {"hostPath": {"path": backend.bucket_root, "type": "DirectoryOrCreate"}}
    return {"persistentVolumeClaim": {"claimName": backend.bucket_root}}


def _file_maker(
    context: _Context, replica: ReplicaPlan, pool: PoolPlan, mounts: list[dict[str, Any]], mount: Any
) -> dict[str, Any]:
    """Puts the replica's files together of what all have in common and what is its own."""
    plan, own = context.plan, dict(replica.files)
    folders = sorted({os.path.dirname(path) for path in own})
    inside = {folder: mount(f"customjob-files-{number}", folder, emptyDir={}) for number, folder in enumerate(folders)}
    mounts.extend(inside.values())
    steps = ["set -e"]
    env: list[dict[str, Any]] = []
    parts: list[dict[str, Any]] = []
    for number, text in enumerate(plan.shared):
        parts_of_it = {"name": _files_name(plan, number)}
        parts.append(mount(f"customjob-parts-{number}", f"{PARTS}/{number}", configMap=parts_of_it))
        env.append({"name": f"OWN_{number}", "value": literal(own[text.path])})
        steps.append(
            f'{{ cat {PARTS}/{number}/head; printf %s "$OWN_{number}"; cat {PARTS}/{number}/tail; }} >{text.path}'
        )
    return {
        "name": names.FILES,
        "image": packages.image_of(plan, pool),
        "command": ["sh", "-c", "\n".join(steps)],
        "env": env,
        "volumeMounts": [*inside.values(), *parts],
    }


def _resources(context: _Context, pool: PoolPlan) -> dict[str, Any]:
    backend, wishes, size = context.backend, pool.resources, context.size(pool)
    requests: dict[str, str] = {}
    if size is not None:
        requests = {name: str(size[name]) for name in ("cpu", "memory") if name in size}
    else:
        if wishes.cpus:
            requests["cpu"] = f"{math.floor(wishes.cpus * backend.request_share * 1000)}m"
        if wishes.memory_bytes:
            requests["memory"] = str(math.floor(wishes.memory_bytes * backend.request_share))
    if pool.disk_gb:
        requests["ephemeral-storage"] = f"{pool.disk_gb}Gi"
    limits: dict[str, str] = {}
    if wishes.gpus:
        limits[backend.gpu_resource] = str(wishes.gpus)
    if context.plan.options.memory_limits and (memory := (size or {}).get("memory") or wishes.memory_bytes):
        limits["memory"] = str(memory)
    return {key: value for key, value in (("requests", requests), ("limits", limits)) if value}


def _group(plan: JobPlan, ref: ReplicaRef, backend: KubernetesBackend) -> tuple[dict[str, str], dict[str, str]]:
    """Labels and annotations by which Kueue admits the whole gang at once."""
    if not backend.queue:
        return {}, {}
    group = names.object_name(plan.job_id, ref.generation, ref.attempt)
    return (
        {"kueue.x-k8s.io/queue-name": backend.queue, "kueue.x-k8s.io/pod-group-name": group},
        {"kueue.x-k8s.io/pod-group-total-count": str(len(plan.replicas))},
    )


def template_of(backend: KubernetesBackend) -> dict[str, Any]:
    template = backend.mapping("pod_template")
    template = {key: value for key, value in template.items() if key in ("metadata", "spec")}
    containers = template.get("spec", {}).get("containers")
    if containers:
        renamed = [
            {**container, "name": names.CONTAINER} if container.get("name") == "base" else container
            for container in containers
        ]
        template["spec"] = {**template["spec"], "containers": renamed}
    template = merged({"metadata": {"annotations": names.DEFAULTS}}, template)
    plain: dict[str, Any] = json.loads(json.dumps(template, default=str))
    return plain


def _mounted(template: dict[str, Any]) -> set[str]:
    return {
        mount["mountPath"]
        for container in template.get("spec", {}).get("containers", ())
        if container["name"] == names.CONTAINER
        for mount in container.get("volumeMounts", ())
    }
