# Made from custom_job.proto by dev/compile_proto.py.
# ruff: noqa: D, E, F, I, N, PYI, RUF, UP
# mypy: ignore-errors
# fmt: off
import datetime
from collections.abc import Iterable as _Iterable
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar

from google.protobuf import descriptor as _descriptor
from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import message as _message
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.descriptor_pool import DescriptorPool as _DescriptorPool
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.rpc import status_pb2 as _status_pb2

POOL: _DescriptorPool
DESCRIPTOR: _descriptor.FileDescriptor

class AcceleratorType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ACCELERATOR_TYPE_UNSPECIFIED: _ClassVar[AcceleratorType]
    NVIDIA_TESLA_K80: _ClassVar[AcceleratorType]
    NVIDIA_TESLA_P100: _ClassVar[AcceleratorType]
    NVIDIA_TESLA_V100: _ClassVar[AcceleratorType]
    NVIDIA_TESLA_P4: _ClassVar[AcceleratorType]
    NVIDIA_TESLA_T4: _ClassVar[AcceleratorType]
    TPU_V2: _ClassVar[AcceleratorType]
    TPU_V3: _ClassVar[AcceleratorType]
    NVIDIA_TESLA_A100: _ClassVar[AcceleratorType]
    NVIDIA_A100_80GB: _ClassVar[AcceleratorType]
    TPU_V4_POD: _ClassVar[AcceleratorType]
    NVIDIA_L4: _ClassVar[AcceleratorType]
    TPU_V5_LITEPOD: _ClassVar[AcceleratorType]
    NVIDIA_H100_80GB: _ClassVar[AcceleratorType]
    NVIDIA_H100_MEGA_80GB: _ClassVar[AcceleratorType]
    NVIDIA_H200_141GB: _ClassVar[AcceleratorType]
    NVIDIA_B200: _ClassVar[AcceleratorType]
    NVIDIA_GB200: _ClassVar[AcceleratorType]
    NVIDIA_RTX_PRO_6000: _ClassVar[AcceleratorType]

class JobState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    JOB_STATE_UNSPECIFIED: _ClassVar[JobState]
    JOB_STATE_QUEUED: _ClassVar[JobState]
    JOB_STATE_PENDING: _ClassVar[JobState]
    JOB_STATE_RUNNING: _ClassVar[JobState]
    JOB_STATE_SUCCEEDED: _ClassVar[JobState]
    JOB_STATE_FAILED: _ClassVar[JobState]
    JOB_STATE_CANCELLING: _ClassVar[JobState]
    JOB_STATE_CANCELLED: _ClassVar[JobState]
    JOB_STATE_PAUSED: _ClassVar[JobState]
    JOB_STATE_EXPIRED: _ClassVar[JobState]
    JOB_STATE_UPDATING: _ClassVar[JobState]
    JOB_STATE_PARTIALLY_SUCCEEDED: _ClassVar[JobState]
ACCELERATOR_TYPE_UNSPECIFIED: AcceleratorType
NVIDIA_TESLA_K80: AcceleratorType
NVIDIA_TESLA_P100: AcceleratorType
NVIDIA_TESLA_V100: AcceleratorType
NVIDIA_TESLA_P4: AcceleratorType
NVIDIA_TESLA_T4: AcceleratorType
TPU_V2: AcceleratorType
TPU_V3: AcceleratorType
NVIDIA_TESLA_A100: AcceleratorType
NVIDIA_A100_80GB: AcceleratorType
TPU_V4_POD: AcceleratorType
NVIDIA_L4: AcceleratorType
TPU_V5_LITEPOD: AcceleratorType
NVIDIA_H100_80GB: AcceleratorType
NVIDIA_H100_MEGA_80GB: AcceleratorType
NVIDIA_H200_141GB: AcceleratorType
NVIDIA_B200: AcceleratorType
NVIDIA_GB200: AcceleratorType
NVIDIA_RTX_PRO_6000: AcceleratorType
JOB_STATE_UNSPECIFIED: JobState
JOB_STATE_QUEUED: JobState
JOB_STATE_PENDING: JobState
JOB_STATE_RUNNING: JobState
JOB_STATE_SUCCEEDED: JobState
JOB_STATE_FAILED: JobState
JOB_STATE_CANCELLING: JobState
JOB_STATE_CANCELLED: JobState
JOB_STATE_PAUSED: JobState
JOB_STATE_EXPIRED: JobState
JOB_STATE_UPDATING: JobState
JOB_STATE_PARTIALLY_SUCCEEDED: JobState

class CustomJob(_message.Message):
    __slots__ = ("create_time", "display_name", "encryption_spec", "end_time", "error", "job_spec", "labels", "name", "satisfies_pzi", "satisfies_pzs", "start_time", "state", "update_time", "web_access_uris")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: str | None = ..., value: str | None = ...) -> None: ...
    class WebAccessUrisEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: str | None = ..., value: str | None = ...) -> None: ...
    NAME_FIELD_NUMBER: _ClassVar[int]
    DISPLAY_NAME_FIELD_NUMBER: _ClassVar[int]
    JOB_SPEC_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    START_TIME_FIELD_NUMBER: _ClassVar[int]
    END_TIME_FIELD_NUMBER: _ClassVar[int]
    UPDATE_TIME_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    ENCRYPTION_SPEC_FIELD_NUMBER: _ClassVar[int]
    WEB_ACCESS_URIS_FIELD_NUMBER: _ClassVar[int]
    SATISFIES_PZS_FIELD_NUMBER: _ClassVar[int]
    SATISFIES_PZI_FIELD_NUMBER: _ClassVar[int]
    name: str
    display_name: str
    job_spec: CustomJobSpec
    state: JobState
    create_time: _timestamp_pb2.Timestamp
    start_time: _timestamp_pb2.Timestamp
    end_time: _timestamp_pb2.Timestamp
    update_time: _timestamp_pb2.Timestamp
    error: _status_pb2.Status
    labels: _containers.ScalarMap[str, str]
    encryption_spec: EncryptionSpec
    web_access_uris: _containers.ScalarMap[str, str]
    satisfies_pzs: bool
    satisfies_pzi: bool
    def __init__(self, name: str | None = ..., display_name: str | None = ..., job_spec: CustomJobSpec | _Mapping | None = ..., state: JobState | str | None = ..., create_time: datetime.datetime | _timestamp_pb2.Timestamp | _Mapping | None = ..., start_time: datetime.datetime | _timestamp_pb2.Timestamp | _Mapping | None = ..., end_time: datetime.datetime | _timestamp_pb2.Timestamp | _Mapping | None = ..., update_time: datetime.datetime | _timestamp_pb2.Timestamp | _Mapping | None = ..., error: _status_pb2.Status | _Mapping | None = ..., labels: _Mapping[str, str] | None = ..., encryption_spec: EncryptionSpec | _Mapping | None = ..., web_access_uris: _Mapping[str, str] | None = ..., satisfies_pzs: bool | None = ..., satisfies_pzi: bool | None = ...) -> None: ...

class CustomJobSpec(_message.Message):
    __slots__ = ("base_output_directory", "enable_dashboard_access", "enable_web_access", "experiment", "experiment_run", "models", "network", "persistent_resource_id", "protected_artifact_location_id", "psc_interface_config", "reserved_ip_ranges", "scheduling", "service_account", "tensorboard", "worker_pool_specs")
    WORKER_POOL_SPECS_FIELD_NUMBER: _ClassVar[int]
    SCHEDULING_FIELD_NUMBER: _ClassVar[int]
    SERVICE_ACCOUNT_FIELD_NUMBER: _ClassVar[int]
    NETWORK_FIELD_NUMBER: _ClassVar[int]
    BASE_OUTPUT_DIRECTORY_FIELD_NUMBER: _ClassVar[int]
    TENSORBOARD_FIELD_NUMBER: _ClassVar[int]
    ENABLE_WEB_ACCESS_FIELD_NUMBER: _ClassVar[int]
    RESERVED_IP_RANGES_FIELD_NUMBER: _ClassVar[int]
    PERSISTENT_RESOURCE_ID_FIELD_NUMBER: _ClassVar[int]
    ENABLE_DASHBOARD_ACCESS_FIELD_NUMBER: _ClassVar[int]
    EXPERIMENT_FIELD_NUMBER: _ClassVar[int]
    EXPERIMENT_RUN_FIELD_NUMBER: _ClassVar[int]
    PROTECTED_ARTIFACT_LOCATION_ID_FIELD_NUMBER: _ClassVar[int]
    MODELS_FIELD_NUMBER: _ClassVar[int]
    PSC_INTERFACE_CONFIG_FIELD_NUMBER: _ClassVar[int]
    worker_pool_specs: _containers.RepeatedCompositeFieldContainer[WorkerPoolSpec]
    scheduling: Scheduling
    service_account: str
    network: str
    base_output_directory: GcsDestination
    tensorboard: str
    enable_web_access: bool
    reserved_ip_ranges: _containers.RepeatedScalarFieldContainer[str]
    persistent_resource_id: str
    enable_dashboard_access: bool
    experiment: str
    experiment_run: str
    protected_artifact_location_id: str
    models: _containers.RepeatedScalarFieldContainer[str]
    psc_interface_config: PscInterfaceConfig
    def __init__(self, worker_pool_specs: _Iterable[WorkerPoolSpec | _Mapping] | None = ..., scheduling: Scheduling | _Mapping | None = ..., service_account: str | None = ..., network: str | None = ..., base_output_directory: GcsDestination | _Mapping | None = ..., tensorboard: str | None = ..., enable_web_access: bool | None = ..., reserved_ip_ranges: _Iterable[str] | None = ..., persistent_resource_id: str | None = ..., enable_dashboard_access: bool | None = ..., experiment: str | None = ..., experiment_run: str | None = ..., protected_artifact_location_id: str | None = ..., models: _Iterable[str] | None = ..., psc_interface_config: PscInterfaceConfig | _Mapping | None = ...) -> None: ...

class WorkerPoolSpec(_message.Message):
    __slots__ = ("container_spec", "disk_spec", "lustre_mounts", "machine_spec", "nfs_mounts", "python_package_spec", "replica_count")
    CONTAINER_SPEC_FIELD_NUMBER: _ClassVar[int]
    PYTHON_PACKAGE_SPEC_FIELD_NUMBER: _ClassVar[int]
    MACHINE_SPEC_FIELD_NUMBER: _ClassVar[int]
    REPLICA_COUNT_FIELD_NUMBER: _ClassVar[int]
    NFS_MOUNTS_FIELD_NUMBER: _ClassVar[int]
    DISK_SPEC_FIELD_NUMBER: _ClassVar[int]
    LUSTRE_MOUNTS_FIELD_NUMBER: _ClassVar[int]
    container_spec: ContainerSpec
    python_package_spec: PythonPackageSpec
    machine_spec: MachineSpec
    replica_count: int
    nfs_mounts: _containers.RepeatedCompositeFieldContainer[NfsMount]
    disk_spec: DiskSpec
    lustre_mounts: _containers.RepeatedCompositeFieldContainer[LustreMount]
    def __init__(self, container_spec: ContainerSpec | _Mapping | None = ..., python_package_spec: PythonPackageSpec | _Mapping | None = ..., machine_spec: MachineSpec | _Mapping | None = ..., replica_count: int | None = ..., nfs_mounts: _Iterable[NfsMount | _Mapping] | None = ..., disk_spec: DiskSpec | _Mapping | None = ..., lustre_mounts: _Iterable[LustreMount | _Mapping] | None = ...) -> None: ...

class ContainerSpec(_message.Message):
    __slots__ = ("args", "command", "env", "image_uri")
    IMAGE_URI_FIELD_NUMBER: _ClassVar[int]
    COMMAND_FIELD_NUMBER: _ClassVar[int]
    ARGS_FIELD_NUMBER: _ClassVar[int]
    ENV_FIELD_NUMBER: _ClassVar[int]
    image_uri: str
    command: _containers.RepeatedScalarFieldContainer[str]
    args: _containers.RepeatedScalarFieldContainer[str]
    env: _containers.RepeatedCompositeFieldContainer[EnvVar]
    def __init__(self, image_uri: str | None = ..., command: _Iterable[str] | None = ..., args: _Iterable[str] | None = ..., env: _Iterable[EnvVar | _Mapping] | None = ...) -> None: ...

class PythonPackageSpec(_message.Message):
    __slots__ = ("args", "env", "executor_image_uri", "package_uris", "python_module")
    EXECUTOR_IMAGE_URI_FIELD_NUMBER: _ClassVar[int]
    PACKAGE_URIS_FIELD_NUMBER: _ClassVar[int]
    PYTHON_MODULE_FIELD_NUMBER: _ClassVar[int]
    ARGS_FIELD_NUMBER: _ClassVar[int]
    ENV_FIELD_NUMBER: _ClassVar[int]
    executor_image_uri: str
    package_uris: _containers.RepeatedScalarFieldContainer[str]
    python_module: str
    args: _containers.RepeatedScalarFieldContainer[str]
    env: _containers.RepeatedCompositeFieldContainer[EnvVar]
    def __init__(self, executor_image_uri: str | None = ..., package_uris: _Iterable[str] | None = ..., python_module: str | None = ..., args: _Iterable[str] | None = ..., env: _Iterable[EnvVar | _Mapping] | None = ...) -> None: ...

class Scheduling(_message.Message):
    __slots__ = ("disable_retries", "max_wait_duration", "restart_job_on_worker_restart", "strategy", "timeout")
    class Strategy(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        STRATEGY_UNSPECIFIED: _ClassVar[Scheduling.Strategy]
        ON_DEMAND: _ClassVar[Scheduling.Strategy]
        LOW_COST: _ClassVar[Scheduling.Strategy]
        STANDARD: _ClassVar[Scheduling.Strategy]
        SPOT: _ClassVar[Scheduling.Strategy]
        FLEX_START: _ClassVar[Scheduling.Strategy]
    STRATEGY_UNSPECIFIED: Scheduling.Strategy
    ON_DEMAND: Scheduling.Strategy
    LOW_COST: Scheduling.Strategy
    STANDARD: Scheduling.Strategy
    SPOT: Scheduling.Strategy
    FLEX_START: Scheduling.Strategy
    TIMEOUT_FIELD_NUMBER: _ClassVar[int]
    RESTART_JOB_ON_WORKER_RESTART_FIELD_NUMBER: _ClassVar[int]
    STRATEGY_FIELD_NUMBER: _ClassVar[int]
    DISABLE_RETRIES_FIELD_NUMBER: _ClassVar[int]
    MAX_WAIT_DURATION_FIELD_NUMBER: _ClassVar[int]
    timeout: _duration_pb2.Duration
    restart_job_on_worker_restart: bool
    strategy: Scheduling.Strategy
    disable_retries: bool
    max_wait_duration: _duration_pb2.Duration
    def __init__(self, timeout: datetime.timedelta | _duration_pb2.Duration | _Mapping | None = ..., restart_job_on_worker_restart: bool | None = ..., strategy: Scheduling.Strategy | str | None = ..., disable_retries: bool | None = ..., max_wait_duration: datetime.timedelta | _duration_pb2.Duration | _Mapping | None = ...) -> None: ...

class EnvVar(_message.Message):
    __slots__ = ("name", "value")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    name: str
    value: str
    def __init__(self, name: str | None = ..., value: str | None = ...) -> None: ...

class MachineSpec(_message.Message):
    __slots__ = ("accelerator_count", "accelerator_type", "gpu_partition_size", "machine_type", "reservation_affinity", "tpu_topology")
    MACHINE_TYPE_FIELD_NUMBER: _ClassVar[int]
    ACCELERATOR_TYPE_FIELD_NUMBER: _ClassVar[int]
    ACCELERATOR_COUNT_FIELD_NUMBER: _ClassVar[int]
    TPU_TOPOLOGY_FIELD_NUMBER: _ClassVar[int]
    RESERVATION_AFFINITY_FIELD_NUMBER: _ClassVar[int]
    GPU_PARTITION_SIZE_FIELD_NUMBER: _ClassVar[int]
    machine_type: str
    accelerator_type: AcceleratorType
    accelerator_count: int
    tpu_topology: str
    reservation_affinity: ReservationAffinity
    gpu_partition_size: str
    def __init__(self, machine_type: str | None = ..., accelerator_type: AcceleratorType | str | None = ..., accelerator_count: int | None = ..., tpu_topology: str | None = ..., reservation_affinity: ReservationAffinity | _Mapping | None = ..., gpu_partition_size: str | None = ...) -> None: ...

class ReservationAffinity(_message.Message):
    __slots__ = ("key", "reservation_affinity_type", "values")
    class Type(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        TYPE_UNSPECIFIED: _ClassVar[ReservationAffinity.Type]
        NO_RESERVATION: _ClassVar[ReservationAffinity.Type]
        ANY_RESERVATION: _ClassVar[ReservationAffinity.Type]
        SPECIFIC_RESERVATION: _ClassVar[ReservationAffinity.Type]
    TYPE_UNSPECIFIED: ReservationAffinity.Type
    NO_RESERVATION: ReservationAffinity.Type
    ANY_RESERVATION: ReservationAffinity.Type
    SPECIFIC_RESERVATION: ReservationAffinity.Type
    RESERVATION_AFFINITY_TYPE_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    reservation_affinity_type: ReservationAffinity.Type
    key: str
    values: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, reservation_affinity_type: ReservationAffinity.Type | str | None = ..., key: str | None = ..., values: _Iterable[str] | None = ...) -> None: ...

class DiskSpec(_message.Message):
    __slots__ = ("boot_disk_size_gb", "boot_disk_type")
    BOOT_DISK_TYPE_FIELD_NUMBER: _ClassVar[int]
    BOOT_DISK_SIZE_GB_FIELD_NUMBER: _ClassVar[int]
    boot_disk_type: str
    boot_disk_size_gb: int
    def __init__(self, boot_disk_type: str | None = ..., boot_disk_size_gb: int | None = ...) -> None: ...

class NfsMount(_message.Message):
    __slots__ = ("mount_point", "path", "server")
    SERVER_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    MOUNT_POINT_FIELD_NUMBER: _ClassVar[int]
    server: str
    path: str
    mount_point: str
    def __init__(self, server: str | None = ..., path: str | None = ..., mount_point: str | None = ...) -> None: ...

class LustreMount(_message.Message):
    __slots__ = ("filesystem", "instance_ip", "mount_point", "volume_handle")
    INSTANCE_IP_FIELD_NUMBER: _ClassVar[int]
    VOLUME_HANDLE_FIELD_NUMBER: _ClassVar[int]
    FILESYSTEM_FIELD_NUMBER: _ClassVar[int]
    MOUNT_POINT_FIELD_NUMBER: _ClassVar[int]
    instance_ip: str
    volume_handle: str
    filesystem: str
    mount_point: str
    def __init__(self, instance_ip: str | None = ..., volume_handle: str | None = ..., filesystem: str | None = ..., mount_point: str | None = ...) -> None: ...

class GcsDestination(_message.Message):
    __slots__ = ("output_uri_prefix",)
    OUTPUT_URI_PREFIX_FIELD_NUMBER: _ClassVar[int]
    output_uri_prefix: str
    def __init__(self, output_uri_prefix: str | None = ...) -> None: ...

class EncryptionSpec(_message.Message):
    __slots__ = ("kms_key_name",)
    KMS_KEY_NAME_FIELD_NUMBER: _ClassVar[int]
    kms_key_name: str
    def __init__(self, kms_key_name: str | None = ...) -> None: ...

class PscInterfaceConfig(_message.Message):
    __slots__ = ("dns_peering_configs", "network_attachment")
    NETWORK_ATTACHMENT_FIELD_NUMBER: _ClassVar[int]
    DNS_PEERING_CONFIGS_FIELD_NUMBER: _ClassVar[int]
    network_attachment: str
    dns_peering_configs: _containers.RepeatedCompositeFieldContainer[DnsPeeringConfig]
    def __init__(self, network_attachment: str | None = ..., dns_peering_configs: _Iterable[DnsPeeringConfig | _Mapping] | None = ...) -> None: ...

class DnsPeeringConfig(_message.Message):
    __slots__ = ("domain", "target_network", "target_project")
    DOMAIN_FIELD_NUMBER: _ClassVar[int]
    TARGET_PROJECT_FIELD_NUMBER: _ClassVar[int]
    TARGET_NETWORK_FIELD_NUMBER: _ClassVar[int]
    domain: str
    target_project: str
    target_network: str
    def __init__(self, domain: str | None = ..., target_project: str | None = ..., target_network: str | None = ...) -> None: ...
