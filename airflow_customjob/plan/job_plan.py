"""From a request to a plan: everything that each replica will see. Pure, and the only place where that is decided."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

from airflow_customjob.plan import environment
from airflow_customjob.plan.capabilities import support_notes, support_problems, without_gpus
from airflow_customjob.plan.environment import MASTER_PORT, MAX_VARIABLE, PORT, Cluster, Member, Work, file_of
from airflow_customjob.plan.expansion import expand
from airflow_customjob.plan.identity import host_of, network_of
from airflow_customjob.plan.types import (
    SECRET_KINDS,
    TIMEOUT_STATES,
    Capabilities,
    ClusterSpec,
    JobId,
    JobOptions,
    JobPlan,
    JobRequest,
    NfsMount,
    Note,
    Package,
    PoolPlan,
    Prepared,
    ReplicaPlan,
    Resources,
    SharedText,
)
from airflow_customjob.spec.machines import machine
from airflow_customjob.spec.message import AcceleratorType, CustomJob, MachineSpec, WorkerPoolSpec
from airflow_customjob.spec.output import to_canonical
from airflow_customjob.spec.parser import parse
from airflow_customjob.spec.problem import Problem, SpecError
from airflow_customjob.spec.rules_job import is_empty, seconds

DEFAULT_TIMEOUT = 7 * 24 * 3600.0
"""Seconds; custom_job.proto: 'The default is 7 days.'"""
LOOPBACK = "127.0.0.1"
GIB = 2**30


def make_request(job: CustomJob, options: JobOptions | None = None) -> JobRequest:
    """The request for a job as ``load`` gave it."""
    return JobRequest(to_canonical(job), options or JobOptions())


def request_digest(request: JobRequest) -> str:
    """sha256 of all that was asked for; equal digests ask for the same job.

    Options that were not chosen are left out: a version that knows more of them adopts the jobs of one that does not.
    """
    default = asdict(JobOptions())
    chosen = {name: value for name, value in asdict(request.options).items() if value != default[name]}
    text = json.dumps([request.job, chosen], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def replica_names(request: JobRequest) -> tuple[str, ...]:
    """Of all replicas, in rank order, without planning them.

    :raises SpecError: the request cannot be read.
    """
    pools = _pools(parse(request.job), request.options)
    return tuple(f"{pool.plan.name}-{index}" for pool in pools for index in range(pool.plan.replica_count))


def make_plan(
    request: JobRequest,
    capabilities: Capabilities,
    *,
    job_id: JobId,
    generation: int = 1,
    prepared: Prepared | None = None,
) -> JobPlan:
    """What each replica of this job sees on this backend.

    :param prepared: what the engine has settled; before that, ports of a shared network are 0.
    :raises SpecError: the job cannot run there; with every problem.
    """
    plan, problems = plan_or_problems(request, capabilities, job_id=job_id, generation=generation, prepared=prepared)
    if plan is None:
        raise SpecError(problems)
    return plan


def plan_or_problems(
    request: JobRequest,
    capabilities: Capabilities,
    *,
    job_id: JobId,
    generation: int = 1,
    prepared: Prepared | None = None,
) -> tuple[JobPlan | None, list[Problem]]:
    """As :func:`make_plan`; None and the problems where it cannot run."""
    options = request.options
    try:
        job = parse(request.job)
    except SpecError as error:
        return None, list(error.problems)
    if problems := _type_problems(options):
        return None, problems
    pools = tuple(_pools(job, options))
    prepared = prepared or Prepared()
    network = network_of(job_id, generation)
    places = [(pool, index) for pool in pools for index in range(pool.plan.replica_count)]
    members, hosts, master = _addresses(places, network, capabilities, prepared)
    cluster = Cluster(job_id, members, master, options)
    directories = environment.directory_variables(
        job.job_spec.base_output_directory.output_uri_prefix, options.trial_id
    )
    seats = [
        _Seat(pool, rank, member, host)
        for rank, ((pool, _), member, host) in enumerate(zip(places, members, hosts, strict=True))
    ]
    context = _Context(cluster, job_id, options, directories)
    problems = [
        *_option_problems(options),
        *support_problems(job, capabilities, options.ignore_fields),
        *_command_problems(pools, capabilities),
        *_size_problems((_replica(seat, context) for seat in _last_of_each_pool(seats)), options),
        *_secret_problems(pools, options),
    ]
    if problems:
        return None, problems
    scheduling = job.job_spec.scheduling
    plan = JobPlan(
        job_id=job_id,
        display_name=job.display_name,
        generation=generation,
        digest=request_digest(request),
        network=network,
        pools=tuple(pool.plan for pool in pools),
        replicas=tuple(_replica(seat, context) for seat in seats),
        timeout=seconds(scheduling.timeout) or DEFAULT_TIMEOUT,
        disable_retries=scheduling.disable_retries,
        restart_job_on_worker_restart=scheduling.restart_job_on_worker_restart and not scheduling.disable_retries,
        options=options,
        prepared=prepared,
        labels=tuple(sorted(job.labels.items())),
        service_account=job.job_spec.service_account,
        output=environment.output_directory(job.job_spec.base_output_directory.output_uri_prefix),
        shared=_shared(seats[0], context) if seats else (),
        notes=(
            *support_notes(job, capabilities, options.ignore_fields),
            *_image_notes(pools),
            *_override_notes(seats, context),
            *_port_notes(capabilities, prepared),
        ),
    )
    return plan, []


@dataclass(frozen=True)
class _Pool:
    """A pool's plan, and what of its spec goes into its replicas.

    :param path: field path of its task, for problems.
    """

    plan: PoolPlan
    command: tuple[str, ...]
    args: tuple[str, ...]
    env: tuple[tuple[str, str], ...]
    work: Work
    path: str


def _pools(job: CustomJob, options: JobOptions) -> Iterator[_Pool]:
    for index, pool in enumerate(job.job_spec.worker_pool_specs):
        if not is_empty(pool) and pool.replica_count:
            yield _pool(index, pool, options)


def _pool(index: int, spec: WorkerPoolSpec, options: JobOptions) -> _Pool:
    is_package = spec.HasField("python_package_spec")
    task = spec.python_package_spec if is_package else spec.container_spec
    image = spec.python_package_spec.executor_image_uri if is_package else spec.container_spec.image_uri
    package, command, work = None, tuple(spec.container_spec.command), Work()
    if is_package:
        package = Package(
            tuple(spec.python_package_spec.package_uris), spec.python_package_spec.python_module, options.gcp_conn_id
        )
        command = ("python3", "-m", package.module)
        work = Work(package.module, package.uris, tuple(task.args))
    resources = resources_of(spec.machine_spec)
    plan = PoolPlan(
        index=index,
        name=f"workerpool{index}",
        replica_count=spec.replica_count,
        image=map_image(image, options.image_map),
        image_requested=image,
        package=package,
        resources=replace(resources, gpus=0, gpu_type=None) if without_gpus(options.ignore_fields) else resources,
        machine_type=spec.machine_spec.machine_type,
        disk_gb=spec.disk_spec.boot_disk_size_gb,
        nfs_mounts=tuple(NfsMount(mount.server, mount.path, mount.mount_point) for mount in spec.nfs_mounts),
    )
    env = tuple((variable.name, variable.value) for variable in task.env)
    path = f"job_spec.worker_pool_specs[{index}].{'python_package_spec' if is_package else 'container_spec'}"
    return _Pool(plan, command, tuple(task.args), env, work, path)


def map_image(image: str, image_map: Sequence[tuple[str, str]]) -> str:
    """The image that takes this one's place; the first pair that fits decides."""
    for source, target in image_map:
        if source == image:
            return target
        if source.endswith("*") and image.startswith(source[:-1]):
            return target[:-1] + image[len(source) - 1 :] if target.endswith("*") else target
    return image


def resources_of(spec: MachineSpec) -> Resources:
    """What a replica on this machine has; a type that nobody knows has no wishes."""
    known = machine(spec.machine_type)
    gpus, kind = spec.accelerator_count, AcceleratorType.Name(spec.accelerator_type) if spec.accelerator_type else None
    if known is None:
        return Resources(gpus=gpus, gpu_type=kind)
    return Resources(
        cpus=float(known.vcpus) if known.vcpus else None,
        memory_bytes=int(known.memory_gb * GIB) if known.memory_gb else None,
        gpus=gpus or known.gpus,
        gpu_type=kind or known.accelerator,
    )


def _addresses(
    places: Sequence[tuple[_Pool, int]], network: str, capabilities: Capabilities, prepared: Prepared
) -> tuple[list[Member], list[str], tuple[str, int]]:
    """Members and hosts in rank order, and the master's host and port."""
    pools = [pool.plan.index for pool, _ in places]
    if capabilities.loopback:
        *ports, master_port = prepared.ports or (0,) * (len(places) + 1)
        hosts = [LOOPBACK] * len(places)
    else:
        hosts = [host_of(network, pool.plan.index, index) for pool, index in places]
        ports, master_port = [PORT] * len(places), MASTER_PORT
    members = [
        Member(pool, index, f"{host}:{port}")
        for pool, (_, index), host, port in zip(pools, places, hosts, ports, strict=True)
    ]
    return members, hosts, (hosts[0] if hosts else LOOPBACK, master_port)


@dataclass(frozen=True)
class _Seat:
    """Where a replica stands among the others."""

    pool: _Pool
    rank: int
    member: Member
    host: str


@dataclass(frozen=True)
class _Context:
    """What all replicas have in common."""

    cluster: Cluster
    job_id: JobId
    options: JobOptions
    directories: Mapping[str, str]


def _replica(seat: _Seat, context: _Context) -> ReplicaPlan:
    pool, member = seat.pool, seat.member
    variables, files = _service_variables(seat, context)
    env = _with_user_variables(variables, pool.env)

    def expanded(texts: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(expand(text, env) for text in texts) if context.options.expand_args else texts

    return ReplicaPlan(
        name=f"{pool.plan.name}-{member.index}",
        pool=pool.plan.index,
        index=member.index,
        rank=seat.rank,
        host=seat.host,
        env=tuple(env.items()),
        command=expanded(pool.command),
        args=expanded(pool.args),
        files=files,
    )


def _service_variables(seat: _Seat, context: _Context) -> tuple[dict[str, str], tuple[tuple[str, str], ...]]:
    """What Vertex AI sets, and what of its own the replica has in files."""
    spec = context.cluster.spec_variables(seat.member, seat.pool.work)
    files: tuple[tuple[str, str], ...] = ()
    if context.options.cluster_spec is ClusterSpec.FILE:
        variables = {f"{name}_FILE": file_of(name) for name in spec}
        files = tuple((file_of(name), parts.own) for name, parts in spec.items())
    else:
        variables = {name: parts.text for name, parts in spec.items()}
    variables |= context.cluster.rank_variables(seat.rank)
    variables |= environment.service_variables(
        context.job_id, context.options, seat.pool.work, container=seat.pool.plan.package is None
    )
    variables |= context.directories
    variables["HOSTNAME"] = seat.host
    return variables, files


def _shared(seat: _Seat, context: _Context) -> tuple[SharedText, ...]:
    if context.options.cluster_spec is not ClusterSpec.FILE:
        return ()
    spec = context.cluster.spec_variables(seat.member, seat.pool.work)
    return tuple(SharedText(file_of(name), parts.head, parts.tail) for name, parts in spec.items())


def _with_user_variables(service: Mapping[str, str], user: Sequence[tuple[str, str]]) -> dict[str, str]:
    """The user's come last, and each may refer to what stands before it (custom_job.proto, EnvVar)."""
    env = dict(service)
    for name, value in user:
        expanded = expand(value, env)
        env.pop(name, None)
        env[name] = expanded
    return env


# -- problems and notes ---------------------------------------------------------------------------------------------


def _command_problems(pools: Sequence[_Pool], capabilities: Capabilities) -> Iterator[Problem]:
    for pool in pools:
        if not capabilities.isolated and pool.plan.package is None and not pool.command:
            message = (
                f"is required on {capabilities.backend}, which runs commands and no images: write the image's ENTRYPOINT, "
                "or use another backend"
            )
            yield Problem(f"{pool.path}.command", message, None, "command-required")


def _last_of_each_pool(seats: Sequence[_Seat]) -> Iterator[_Seat]:
    """Whose variables are the longest of their pool: what is too long is found before there are a thousand of it."""
    yield from {seat.member.pool: seat for seat in seats}.values()


def _size_problems(replicas: Iterable[ReplicaPlan], options: JobOptions) -> Iterator[Problem]:
    """One problem a variable: replicas differ little."""
    seen = set()
    for replica in replicas:
        for name, value in replica.env:
            if len(value) > MAX_VARIABLE // 4 and name not in seen and (size := len(value.encode())) > MAX_VARIABLE:
                seen.add(name)
                ours = name in ("CLUSTER_SPEC", "TF_CONFIG") and options.cluster_spec is ClusterSpec.ENV
                remedy = (
                    'choose cluster_spec="file" (its path is then in CLUSTER_SPEC_FILE) or "none"'
                    if ours
                    else "shorten it"
                )
                message = f"{name} of {replica.name} has {size:,} bytes; Linux takes about {MAX_VARIABLE:,} in one variable: {remedy}"
                yield Problem("job_spec.worker_pool_specs", message, None, "variable-size")


def _type_problems(options: JobOptions) -> list[Problem]:
    """Of what the job's record could not keep."""
    import msgspec

    try:
        msgspec.convert(msgspec.to_builtins(options), JobOptions)
    except (msgspec.ValidationError, TypeError) as error:
        return [Problem("options", f"an option has the wrong type: {error}", None, "option-type")]
    return []


_KEY = re.compile(r"/[^\0\n{]*|[\w.#!()\\:-]{1,250}")
"""An absolute path, or what Airflow takes for the id of a connection."""


def _option_problems(options: JobOptions) -> Iterator[Problem]:
    if options.timeout_state not in TIMEOUT_STATES:
        message = f"there is no such end: choose one of {', '.join(TIMEOUT_STATES)}"
        yield Problem("timeout_state", message, options.timeout_state, "timeout-state")
    if not _KEY.fullmatch(options.google_credentials or "/"):  # never shown: it may be the key itself
        message = "is neither an absolute path of a key file nor the id of a connection"
        yield Problem("google_credentials", message, None, "google-credentials")
    for name in ("stop_grace", "record_ttl"):
        seconds = getattr(options, name)
        if not (math.isfinite(seconds) and seconds >= 0):
            yield Problem(name, "must be a number of seconds, 0 or more", str(seconds), "option-seconds")


def _secret_problems(pools: Sequence[_Pool], options: JobOptions) -> Iterator[Problem]:
    for name, reference in options.secret_env:
        if not (name.isascii() and name.isidentifier()):
            message = "each name must be a C identifier: letters, digits and _, no digit first"
            yield Problem("secret_env", message, name, "secret-name")
        kind, _, rest = reference.partition(":")
        if kind not in SECRET_KINDS or not rest:  # never shown: it may be the secret itself
            forms = ", ".join(f"{known}:..." for known in SECRET_KINDS)
            yield Problem("secret_env", f"{name} is given no reference: write one of {forms}", None, "secret-reference")
        for pool in pools:
            if name in dict(pool.env):
                yield Problem(
                    f"{pool.path}.env", f"{name} is in secret_env too: keep one of them", name, "secret-twice"
                )


def _override_notes(seats: Sequence[_Seat], context: _Context) -> Iterator[Note]:
    """Vertex AI documents no reserved names: the user's variable wins, and who did not mean it is told."""
    for seat in seats:
        if seat.member.index == 0 and seat.pool.env:
            variables, _ = _service_variables(seat, context)
            path = f"{seat.pool.path.removeprefix('job_spec.')}.env"
            for name in sorted(dict(seat.pool.env).keys() & variables):
                yield Note(path, f"{name} takes the place of the variable that is set by itself")


def _port_notes(capabilities: Capabilities, prepared: Prepared) -> Iterator[Note]:
    if capabilities.loopback and not prepared.ports:
        yield Note(
            "ports", "replicas share this host: their ports are chosen at launch, and stand here as 0 until then"
        )


def _image_notes(pools: Sequence[_Pool]) -> Iterator[Note]:
    for pool in pools:
        if pool.plan.image != pool.plan.image_requested:
            yield Note(
                f"worker_pool_specs[{pool.plan.index}]", f"{pool.plan.image_requested} is replaced by {pool.plan.image}"
            )
