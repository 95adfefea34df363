# Made from custom_job.proto by dev/compile_proto.py.
# ruff: noqa: E501, I001, RUF023, UP007, UP045
# mypy: ignore-errors
# fmt: off
import datetime

from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.rpc import status_pb2 as _status_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union
from google.protobuf.descriptor_pool import DescriptorPool as _DescriptorPool

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
    __slots__ = ("name", "display_name", "job_spec", "state", "create_time", "start_time", "end_time", "update_time", "error", "labels", "encryption_spec", "web_access_uris", "satisfies_pzs", "satisfies_pzi")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    class WebAccessUrisEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
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
    def __init__(self, name: _Optional[str] = ..., display_name: _Optional[str] = ..., job_spec: _Optional[_Union[CustomJobSpec, _Mapping]] = ..., state: _Optional[_Union[JobState, str]] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., start_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., end_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., update_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., error: _Optional[_Union[_status_pb2.Status, _Mapping]] = ..., labels: _Optional[_Mapping[str, str]] = ..., encryption_spec: _Optional[_Union[EncryptionSpec, _Mapping]] = ..., web_access_uris: _Optional[_Mapping[str, str]] = ..., satisfies_pzs: _Optional[bool] = ..., satisfies_pzi: _Optional[bool] = ...) -> None: ...

class CustomJobSpec(_message.Message):
    __slots__ = ("worker_pool_specs", "scheduling", "service_account", "network", "base_output_directory", "tensorboard", "enable_web_access", "reserved_ip_ranges", "persistent_resource_id", "enable_dashboard_access", "experiment", "experiment_run", "protected_artifact_location_id", "models", "psc_interface_config")
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
    def __init__(self, worker_pool_specs: _Optional[_Iterable[_Union[WorkerPoolSpec, _Mapping]]] = ..., scheduling: _Optional[_Union[Scheduling, _Mapping]] = ..., service_account: _Optional[str] = ..., network: _Optional[str] = ..., base_output_directory: _Optional[_Union[GcsDestination, _Mapping]] = ..., tensorboard: _Optional[str] = ..., enable_web_access: _Optional[bool] = ..., reserved_ip_ranges: _Optional[_Iterable[str]] = ..., persistent_resource_id: _Optional[str] = ..., enable_dashboard_access: _Optional[bool] = ..., experiment: _Optional[str] = ..., experiment_run: _Optional[str] = ..., protected_artifact_location_id: _Optional[str] = ..., models: _Optional[_Iterable[str]] = ..., psc_interface_config: _Optional[_Union[PscInterfaceConfig, _Mapping]] = ...) -> None: ...

class WorkerPoolSpec(_message.Message):
    __slots__ = ("container_spec", "python_package_spec", "machine_spec", "replica_count", "nfs_mounts", "disk_spec", "lustre_mounts")
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
    def __init__(self, container_spec: _Optional[_Union[ContainerSpec, _Mapping]] = ..., python_package_spec: _Optional[_Union[PythonPackageSpec, _Mapping]] = ..., machine_spec: _Optional[_Union[MachineSpec, _Mapping]] = ..., replica_count: _Optional[int] = ..., nfs_mounts: _Optional[_Iterable[_Union[NfsMount, _Mapping]]] = ..., disk_spec: _Optional[_Union[DiskSpec, _Mapping]] = ..., lustre_mounts: _Optional[_Iterable[_Union[LustreMount, _Mapping]]] = ...) -> None: ...

class ContainerSpec(_message.Message):
    __slots__ = ("image_uri", "command", "args", "env")
    IMAGE_URI_FIELD_NUMBER: _ClassVar[int]
    COMMAND_FIELD_NUMBER: _ClassVar[int]
    ARGS_FIELD_NUMBER: _ClassVar[int]
    ENV_FIELD_NUMBER: _ClassVar[int]
    image_uri: str
    command: _containers.RepeatedScalarFieldContainer[str]
    args: _containers.RepeatedScalarFieldContainer[str]
    env: _containers.RepeatedCompositeFieldContainer[EnvVar]
    def __init__(self, image_uri: _Optional[str] = ..., command: _Optional[_Iterable[str]] = ..., args: _Optional[_Iterable[str]] = ..., env: _Optional[_Iterable[_Union[EnvVar, _Mapping]]] = ...) -> None: ...

class PythonPackageSpec(_message.Message):
    __slots__ = ("executor_image_uri", "package_uris", "python_module", "args", "env")
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
    def __init__(self, executor_image_uri: _Optional[str] = ..., package_uris: _Optional[_Iterable[str]] = ..., python_module: _Optional[str] = ..., args: _Optional[_Iterable[str]] = ..., env: _Optional[_Iterable[_Union[EnvVar, _Mapping]]] = ...) -> None: ...

class Scheduling(_message.Message):
    __slots__ = ("timeout", "restart_job_on_worker_restart", "strategy", "disable_retries", "max_wait_duration")
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
    def __init__(self, timeout: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., restart_job_on_worker_restart: _Optional[bool] = ..., strategy: _Optional[_Union[Scheduling.Strategy, str]] = ..., disable_retries: _Optional[bool] = ..., max_wait_duration: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class EnvVar(_message.Message):
    __slots__ = ("name", "value")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    name: str
    value: str
    def __init__(self, name: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...

class MachineSpec(_message.Message):
    __slots__ = ("machine_type", "accelerator_type", "accelerator_count", "tpu_topology", "reservation_affinity", "gpu_partition_size")
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
    def __init__(self, machine_type: _Optional[str] = ..., accelerator_type: _Optional[_Union[AcceleratorType, str]] = ..., accelerator_count: _Optional[int] = ..., tpu_topology: _Optional[str] = ..., reservation_affinity: _Optional[_Union[ReservationAffinity, _Mapping]] = ..., gpu_partition_size: _Optional[str] = ...) -> None: ...

class ReservationAffinity(_message.Message):
    __slots__ = ("reservation_affinity_type", "key", "values")
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
    def __init__(self, reservation_affinity_type: _Optional[_Union[ReservationAffinity.Type, str]] = ..., key: _Optional[str] = ..., values: _Optional[_Iterable[str]] = ...) -> None: ...

class DiskSpec(_message.Message):
    __slots__ = ("boot_disk_type", "boot_disk_size_gb")
    BOOT_DISK_TYPE_FIELD_NUMBER: _ClassVar[int]
    BOOT_DISK_SIZE_GB_FIELD_NUMBER: _ClassVar[int]
    boot_disk_type: str
    boot_disk_size_gb: int
    def __init__(self, boot_disk_type: _Optional[str] = ..., boot_disk_size_gb: _Optional[int] = ...) -> None: ...

class NfsMount(_message.Message):
    __slots__ = ("server", "path", "mount_point")
    SERVER_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    MOUNT_POINT_FIELD_NUMBER: _ClassVar[int]
    server: str
    path: str
    mount_point: str
    def __init__(self, server: _Optional[str] = ..., path: _Optional[str] = ..., mount_point: _Optional[str] = ...) -> None: ...

class LustreMount(_message.Message):
    __slots__ = ("instance_ip", "volume_handle", "filesystem", "mount_point")
    INSTANCE_IP_FIELD_NUMBER: _ClassVar[int]
    VOLUME_HANDLE_FIELD_NUMBER: _ClassVar[int]
    FILESYSTEM_FIELD_NUMBER: _ClassVar[int]
    MOUNT_POINT_FIELD_NUMBER: _ClassVar[int]
    instance_ip: str
    volume_handle: str
    filesystem: str
    mount_point: str
    def __init__(self, instance_ip: _Optional[str] = ..., volume_handle: _Optional[str] = ..., filesystem: _Optional[str] = ..., mount_point: _Optional[str] = ...) -> None: ...

class GcsDestination(_message.Message):
    __slots__ = ("output_uri_prefix",)
    OUTPUT_URI_PREFIX_FIELD_NUMBER: _ClassVar[int]
    output_uri_prefix: str
    def __init__(self, output_uri_prefix: _Optional[str] = ...) -> None: ...

class EncryptionSpec(_message.Message):
    __slots__ = ("kms_key_name",)
    KMS_KEY_NAME_FIELD_NUMBER: _ClassVar[int]
    kms_key_name: str
    def __init__(self, kms_key_name: _Optional[str] = ...) -> None: ...

class PscInterfaceConfig(_message.Message):
    __slots__ = ("network_attachment", "dns_peering_configs")
    NETWORK_ATTACHMENT_FIELD_NUMBER: _ClassVar[int]
    DNS_PEERING_CONFIGS_FIELD_NUMBER: _ClassVar[int]
    network_attachment: str
    dns_peering_configs: _containers.RepeatedCompositeFieldContainer[DnsPeeringConfig]
    def __init__(self, network_attachment: _Optional[str] = ..., dns_peering_configs: _Optional[_Iterable[_Union[DnsPeeringConfig, _Mapping]]] = ...) -> None: ...

class DnsPeeringConfig(_message.Message):
    __slots__ = ("domain", "target_project", "target_network")
    DOMAIN_FIELD_NUMBER: _ClassVar[int]
    TARGET_PROJECT_FIELD_NUMBER: _ClassVar[int]
    TARGET_NETWORK_FIELD_NUMBER: _ClassVar[int]
    domain: str
    target_project: str
    target_network: str
    def __init__(self, domain: _Optional[str] = ..., target_project: _Optional[str] = ..., target_network: _Optional[str] = ...) -> None: ...
