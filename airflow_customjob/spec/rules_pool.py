"""Rules about a worker pool: its machine, its disk, and what runs on it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from airflow_customjob.spec import rules
from airflow_customjob.spec.machines import N1_ACCELERATORS, machine, n1_counts, nearest
from airflow_customjob.spec.message import (
    AcceleratorType,
    ContainerSpec,
    DiskSpec,
    MachineSpec,
    NfsMount,
    PythonPackageSpec,
    WorkerPoolSpec,
)
from airflow_customjob.spec.rules import Finding, Rule
from airflow_customjob.spec.scalars import TEMPLATE

DISK_TYPES = ("pd-ssd", "pd-standard", "hyperdisk-balanced")
DISK_GB = (100, 64_000)
MAX_ARGS = 100_000
MAX_ENV = 100
MAX_PACKAGES = 100

_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_MODULE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")
_SERVICE_ENV = re.compile(r"AIP_.*|CLOUD_ML_.*|CLUSTER_SPEC|TF_CONFIG|RANK|WORLD_SIZE|MASTER_ADDR|MASTER_PORT|HOSTNAME")

Task = ContainerSpec | PythonPackageSpec


def _both_or_none(pool: WorkerPoolSpec) -> Iterator[Finding]:
    sentence = "Both or none of `machine_spec` and `replica_count` should be specified."
    if pool.HasField("machine_spec") and not pool.replica_count:
        yield "replica_count", sentence, None
    elif pool.replica_count and not pool.HasField("machine_spec"):
        yield "machine_spec", sentence, None


def _replicas(pool: WorkerPoolSpec) -> Iterator[Finding]:
    if pool.replica_count < 0:
        yield "replica_count", "may not be negative", pool.replica_count


def _task(pool: WorkerPoolSpec) -> Iterator[Finding]:
    if pool.WhichOneof("task") is None:
        yield "container_spec", "exactly one of container_spec and python_package_spec is required", None


def _no_replicas(pool: WorkerPoolSpec) -> Iterator[Finding]:
    if not pool.replica_count and not pool.HasField("machine_spec"):
        yield "replica_count", "without machine_spec and replica_count this pool is skipped", None


def _machine_type(spec: MachineSpec) -> Iterator[Finding]:
    if not spec.machine_type:
        yield "machine_type", "is required in a worker pool", None


def _known_machine(spec: MachineSpec) -> Iterator[Finding]:
    if spec.machine_type and not TEMPLATE.search(spec.machine_type) and machine(spec.machine_type) is None:
        near = nearest(spec.machine_type)
        hint = f"; did you mean {near}?" if near else ""
        message = f"not a machine type of Vertex AI training, so no CPUs and memory follow from it{hint}"
        yield "machine_type", message, spec.machine_type


def _accelerator_pair(spec: MachineSpec) -> Iterator[Finding]:
    sentence = "Both `accelerator_type` and `accelerator_count` should be specified or none."
    if spec.accelerator_type and not spec.accelerator_count:
        yield "accelerator_count", sentence, None
    elif spec.accelerator_count and not spec.accelerator_type:
        yield "accelerator_type", sentence, None
    if spec.accelerator_count < 0:
        yield "accelerator_count", "may not be negative", spec.accelerator_count


def _accelerator_name(spec: MachineSpec) -> str:
    """Also of a number that a message made by hand may hold."""
    names = {number: name for name, number in AcceleratorType.items()}
    return names.get(spec.accelerator_type, str(spec.accelerator_type))


def _accelerator_fits(spec: MachineSpec) -> Iterator[Finding]:
    known = machine(spec.machine_type)
    if known is None or known.tpu:
        return
    given, count = _accelerator_name(spec), spec.accelerator_count
    if known.gpus:
        if not spec.accelerator_type and not count:
            yield (
                "accelerator_type",
                f"{known.name} needs {known.accelerator} with accelerator_count {known.gpus}",
                None,
            )
        elif spec.accelerator_type and given != known.accelerator:
            yield "accelerator_type", f"{known.name} has {known.accelerator}", given
        elif count > 0 and count != known.gpus:
            yield "accelerator_count", f"{known.name} has {known.gpus}", count
    elif spec.accelerator_type and not known.name.startswith("n1-"):
        yield "accelerator_type", f"{known.name} takes no accelerators", given
    elif spec.accelerator_type and given not in N1_ACCELERATORS:
        yield "accelerator_type", f"N1 machines take {', '.join(N1_ACCELERATORS)}", given
    elif spec.accelerator_type and count > 0:
        counts = n1_counts(known.vcpus or 0, given)
        if counts and count not in counts:
            yield "accelerator_count", f"{known.name} takes {given} by {', '.join(map(str, counts))}", count


def _deprecated_accelerator(spec: MachineSpec) -> Iterator[Finding]:
    if spec.accelerator_type == AcceleratorType.Value("NVIDIA_TESLA_K80"):
        yield "accelerator_type", "is deprecated; Vertex AI has no more of them", "NVIDIA_TESLA_K80"


def _disk(disk: DiskSpec) -> Iterator[Finding]:
    if disk.boot_disk_type and disk.boot_disk_type not in DISK_TYPES:
        yield "boot_disk_type", f"one of {', '.join(DISK_TYPES)}", disk.boot_disk_type
    if disk.boot_disk_size_gb and not DISK_GB[0] <= disk.boot_disk_size_gb <= DISK_GB[1]:
        yield "boot_disk_size_gb", f"between {DISK_GB[0]} and {DISK_GB[1]:,}", disk.boot_disk_size_gb


def _nfs(mount: NfsMount) -> Iterator[Finding]:
    if mount.path and not mount.path.startswith("/"):
        yield "path", "begins with a slash", mount.path


def _args_size(task: Task) -> Iterator[Finding]:
    total = sum(map(len, task.args))
    if total > MAX_ARGS:
        yield "args", f"more than {MAX_ARGS:,} characters together ({total:,})", None


def _env_count(task: Task) -> Iterator[Finding]:
    if len(task.env) > MAX_ENV:
        yield "env", f"more than {MAX_ENV} variables", len(task.env)


def _env_name(task: Task) -> Iterator[Finding]:
    for index, variable in enumerate(task.env):
        if variable.name and not _IDENTIFIER.fullmatch(variable.name):
            yield f"env[{index}].name", "must be a C identifier: letters, digits and _, no digit first", variable.name


def _env_twice(task: Task) -> Iterator[Finding]:
    seen: dict[str, int] = {}
    for index, variable in enumerate(task.env):
        if variable.name in seen:
            yield f"env[{index}].name", f"was given in env[{seen[variable.name]}] too; this one counts", variable.name
        seen[variable.name] = index


def _env_service(task: Task) -> Iterator[Finding]:
    for index, variable in enumerate(task.env):
        if _SERVICE_ENV.fullmatch(variable.name):
            yield f"env[{index}].name", "overrides the variable that the service sets", variable.name


def _strings(task: Task) -> Iterator[tuple[str, str]]:
    lists: list[tuple[str, Sequence[str]]] = [("args", task.args)]
    if isinstance(task, ContainerSpec):
        lists.append(("command", task.command))
    for name, values in lists:
        yield from ((f"{name}[{index}]", value) for index, value in enumerate(values))
    for index, variable in enumerate(task.env):
        yield f"env[{index}].name", variable.name
        yield f"env[{index}].value", variable.value


def _nul(task: Task) -> Iterator[Finding]:
    for path, value in _strings(task):
        if "\0" in value:
            yield path, "holds a NUL character, which no process can be given", None


def _split_text(task: Task) -> Iterator[Finding]:
    lists: list[tuple[str, Sequence[str]]] = [("args", task.args)]
    if isinstance(task, ContainerSpec):
        lists.append(("command", task.command))
    for name, values in lists:
        if len(values) > 3 and all(len(value) == 1 for value in values):
            whole = "".join(values)
            yield name, f'a text that was split into its characters? write ["{whole[:60]}"]', whole


def _package_count(task: PythonPackageSpec) -> Iterator[Finding]:
    if len(task.package_uris) > MAX_PACKAGES:
        yield "package_uris", f"more than {MAX_PACKAGES} packages", len(task.package_uris)


_LOGIN = re.compile(r"^\w+://[^/?#]*@")


def _package_kind(task: PythonPackageSpec) -> Iterator[Finding]:
    for index, uri in enumerate(task.package_uris):
        is_url = not uri.startswith("gs://")
        rest = _LOGIN.sub("", uri)
        path = re.split("[?#]", rest)[0] if is_url else uri
        if uri and not TEMPLATE.search(uri) and not path.endswith((".tar.gz", ".whl")):
            # what stands before and behind may hold a login, or a signature; an @ that is left, a part of a login
            what = None if is_url and "@" in rest else path.rpartition("/")[2]
            yield f"package_uris[{index}]", "Vertex AI takes source distributions (.tar.gz) and wheels (.whl)", what


def _package_empty(task: PythonPackageSpec) -> Iterator[Finding]:
    for index, uri in enumerate(task.package_uris):
        if not uri:
            yield f"package_uris[{index}]", "is empty", None


def _module(task: PythonPackageSpec) -> Iterator[Finding]:
    name = task.python_module
    if name and not TEMPLATE.search(name) and not _MODULE.fullmatch(name):
        yield "python_module", "a module's dotted name, as in python3 -m package.module", name
    elif name.endswith(".py"):
        yield "python_module", f"a module's name, not a file's: did you mean {name.removesuffix('.py')}?", name


POOL: tuple[Rule[WorkerPoolSpec], ...] = (
    Rule("machine-and-replicas", rules.SERVER, _both_or_none),
    Rule("replica-count", rules.PROTO, _replicas),
    Rule("task", rules.PROTO, _task),
    Rule("no-replicas", rules.HERE, _no_replicas, "warning"),
)

MACHINE: tuple[Rule[MachineSpec], ...] = (
    Rule("machine-type", rules.PROTO, _machine_type),
    Rule("unknown-machine-type", rules.COMPUTE, _known_machine, "warning"),
    Rule("accelerator-pair", rules.SERVER, _accelerator_pair),
    Rule("accelerator-fit", rules.COMPUTE, _accelerator_fits, "warning"),
    Rule("deprecated-accelerator", rules.PROTO, _deprecated_accelerator, "warning"),
)

DISK: tuple[Rule[DiskSpec], ...] = (Rule("disk", rules.COMPUTE, _disk),)

NFS: tuple[Rule[NfsMount], ...] = (Rule("nfs-path", rules.PROTO, _nfs),)

TASK: tuple[Rule[Task], ...] = (
    Rule("args-size", rules.CONTAINER, _args_size),
    Rule("env-count", rules.PROTO, _env_count),
    Rule("env-name", rules.PROTO, _env_name),
    Rule("env-twice", rules.HERE, _env_twice, "warning"),
    Rule("env-override", rules.HERE, _env_service, "warning"),
    Rule("nul", rules.HERE, _nul),
    Rule("split-text", rules.HERE, _split_text, "warning"),
)

PACKAGE: tuple[Rule[PythonPackageSpec], ...] = (
    Rule("package-count", rules.PROTO, _package_count),
    Rule("package-kind", "Vertex AI documentation, Create a Python training application", _package_kind, "warning"),
    Rule("package-empty", rules.HERE, _package_empty),
    Rule("module", rules.HERE, _module),
)
