"""The table of machine types against what Vertex AI's documentation says of them."""

from __future__ import annotations

import pytest

from airflow_customjob.spec import machine
from airflow_customjob.spec.machines import MACHINES, n1_counts, nearest
from airflow_customjob.spec.message import AcceleratorType


@pytest.mark.parametrize(
    ("name", "vcpus", "memory_gb", "gpus"),
    [
        ("n1-standard-32", 32, 120.0, 0),
        ("n1-highmem-8", 8, 52.0, 0),
        ("n1-highcpu-16", 16, 14.4, 0),
        ("e2-standard-4", 4, 16, 0),
        ("e2-highmem-2", 2, 16, 0),
        ("e2-highcpu-32", 32, 32, 0),
        ("c2-standard-30", 30, 120, 0),
        ("a2-highgpu-1g", 12, 85, 1),
        ("a2-megagpu-16g", 96, 1360, 16),
        ("a2-ultragpu-8g", 96, 1360, 8),
        ("a3-highgpu-8g", 208, 1872, 8),
        ("a4x-highgpu-4g", None, None, 4),
        ("g2-standard-24", 24, 96, 2),
        ("g2-standard-96", 96, 384, 8),
        ("g4-standard-384", 384, None, 8),
        ("ct5lp-hightpu-4t", 112, 192, 0),
        ("ct6e-standard-8t", 180, 1440, 0),
    ],
)
def test_machine(name: str, vcpus: int | None, memory_gb: float | None, gpus: int) -> None:
    row = machine(name)
    assert row is not None
    assert (row.name, row.vcpus, row.memory_gb, row.gpus) == (
        name,
        vcpus,
        pytest.approx(memory_gb) if memory_gb else None,
        gpus,
    )


@pytest.mark.parametrize(
    "name", ["n1-standard-1", "n1-standard-128", "e2-micro", "n2d-standard-4", "", "N1-STANDARD-4"]
)
def test_unknown(name: str) -> None:
    assert machine(name) is None


def test_every_accelerator_is_one_of_the_proto() -> None:
    assert {row.accelerator for row in MACHINES.values() if row.accelerator} <= set(AcceleratorType.keys())
    assert all((row.gpus > 0) == bool(row.accelerator) for row in MACHINES.values() if not row.tpu)


def test_rows_without_a_source_say_so() -> None:
    assert all(not row.verified for row in MACHINES.values() if row.vcpus is None or row.memory_gb is None)
    assert machine("n2-standard-4") == MACHINES["n2-standard-4"]
    assert not MACHINES["n2-standard-4"].verified


@pytest.mark.parametrize(
    ("vcpus", "accelerator", "counts"),
    [
        (4, "NVIDIA_TESLA_T4", (1, 2, 4)),
        (8, "NVIDIA_TESLA_V100", (1, 2, 4, 8)),
        (16, "NVIDIA_TESLA_P100", (1, 2, 4)),
        (16, "NVIDIA_TESLA_V100", (2, 4, 8)),
        (32, "NVIDIA_TESLA_P4", (2, 4)),
        (32, "NVIDIA_TESLA_V100", (4, 8)),
        (64, "NVIDIA_TESLA_T4", None),
        (96, "NVIDIA_TESLA_V100", (8,)),
        (4, "NVIDIA_TESLA_K80", None),
    ],
)
def test_gpus_of_n1(vcpus: int, accelerator: str, counts: tuple[int, ...] | None) -> None:
    assert n1_counts(vcpus, accelerator) == counts


def test_nearest() -> None:
    assert nearest("n1-standrad-4") == "n1-standard-4"
    assert nearest("N1-Standard-8") == "n1-standard-8"
    assert nearest("xyz") is None
