"""Machine types of Vertex AI training, as data: what a replica of that type has.

Source: Vertex AI documentation, 'Configure compute resources for serverless training' (the list of types, and the GPUs
of the A and G families); per-vCPU memory of N1 and E2 from 'Configure compute resources for inference'. Rows marked
unverified come from the general Compute Engine families and not from Vertex AI's own pages.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches

A100, A100_80, L4 = "NVIDIA_TESLA_A100", "NVIDIA_A100_80GB", "NVIDIA_L4"
H100, H100_MEGA, H200 = "NVIDIA_H100_80GB", "NVIDIA_H100_MEGA_80GB", "NVIDIA_H200_141GB"
B200, GB200, RTX_PRO_6000, V5E = "NVIDIA_B200", "NVIDIA_GB200", "NVIDIA_RTX_PRO_6000", "TPU_V5_LITEPOD"


@dataclass(frozen=True)
class Machine:
    """One machine type.

    :param vcpus: None where no source says.
    :param memory_gb: in GB as Google counts them (2**30 bytes); None where no source says.
    :param gpus: GPUs that are part of the type; 0 where none are, or where the spec chooses (N1).
    :param accelerator: name of the type's AcceleratorType, where the type implies one.
    :param tpu: a TPU machine.
    :param verified: vcpus and memory are from Vertex AI's own pages.
    """

    name: str
    vcpus: int | None
    memory_gb: float | None
    gpus: int = 0
    accelerator: str | None = None
    tpu: bool = False
    verified: bool = True


# Family: memory per vCPU, the numbers of vCPUs, whether that memory is verified.
_PER_VCPU: dict[str, tuple[float | None, tuple[int, ...], bool]] = {
    "n1-standard": (3.75, (4, 8, 16, 32, 64, 96), True),
    "n1-highmem": (6.5, (2, 4, 8, 16, 32, 64, 96), True),
    "n1-highcpu": (0.9, (16, 32, 64, 96), True),
    "e2-standard": (4, (4, 8, 16, 32), True),
    "e2-highmem": (8, (2, 4, 8, 16), True),
    "e2-highcpu": (1, (16, 32), True),
    "n2-standard": (4, (4, 8, 16, 32, 48, 64, 80), False),
    "n2-highmem": (8, (2, 4, 8, 16, 32, 48, 64, 80), False),
    "n2-highcpu": (1, (16, 32, 48, 64, 80), False),
    "n4-standard": (4, (2, 4, 8, 16, 32, 48, 64, 80), False),
    "n4-highmem": (8, (2, 4, 8, 16, 32, 48, 64, 80), False),
    "n4-highcpu": (2, (2, 4, 8, 16, 32, 48, 64, 80), False),
    "c2-standard": (4, (4, 8, 16, 30, 60), False),
    "m1-ultramem": (None, (40, 80, 160), False),
    "m1-megamem": (None, (96,), False),
}

# Type: vCPUs, memory, GPUs, accelerator, verified.
_GPU: dict[str, tuple[int | None, float | None, int, str, bool]] = {
    **{f"a2-highgpu-{n}g": (12 * n, 85 * n, n, A100, False) for n in (1, 2, 4, 8)},
    "a2-megagpu-16g": (96, 1360, 16, A100, False),
    **{f"a2-ultragpu-{n}g": (12 * n, 170 * n, n, A100_80, False) for n in (1, 2, 4, 8)},
    **{f"a3-highgpu-{n}g": (26 * n, 234 * n, n, H100, n == 8) for n in (1, 2, 4, 8)},
    "a3-megagpu-8g": (208, 1872, 8, H100_MEGA, False),
    "a3-ultragpu-8g": (224, 2952, 8, H200, False),
    "a4-highgpu-8g": (None, None, 8, B200, False),
    "a4x-highgpu-4g": (None, None, 4, GB200, False),
    **{
        f"g2-standard-{n}": (n, 4 * n, {24: 2, 48: 4, 96: 8}.get(n, 1), L4, False)
        for n in (4, 8, 12, 16, 24, 32, 48, 96)
    },
    **{f"g4-standard-{48 * n}": (48 * n, None, n, RTX_PRO_6000, False) for n in (1, 2, 4, 8)},
}

# Type: vCPUs, memory, accelerator where the type implies it.
_TPU: dict[str, tuple[int | None, float | None, str | None]] = {
    "ct5lp-hightpu-1t": (24, 48, V5E),
    "ct5lp-hightpu-4t": (112, 192, V5E),
    "ct5lp-hightpu-8t": (224, 384, V5E),
    "ct6e-standard-1t": (44, 48, None),
    "ct6e-standard-4t": (180, 720, None),
    "ct6e-standard-8t": (180, 1440, None),
    "tpu7x-standard-4t": (None, None, None),
    "cloud-tpu": (None, None, None),
}


def _rows() -> Iterator[Machine]:
    for family, (per_vcpu, sizes, verified) in _PER_VCPU.items():
        for vcpus in sizes:
            memory = per_vcpu * vcpus if per_vcpu is not None else None
            yield Machine(f"{family}-{vcpus}", vcpus, memory, verified=verified)
    for name, (cpus, memory, gpus, accelerator, verified) in _GPU.items():
        yield Machine(name, cpus, memory, gpus, accelerator, verified=verified)
    for name, (cpus, memory, tpu_type) in _TPU.items():
        yield Machine(name, cpus, memory, accelerator=tpu_type, tpu=True, verified=cpus is not None)


MACHINES: dict[str, Machine] = {row.name: row for row in _rows()}

# Up to so many vCPUs: counts of P4, P100 and T4 (None: the source's columns cannot be told apart), counts of V100.
_N1_GPUS: tuple[tuple[int, tuple[int, ...] | None, tuple[int, ...]], ...] = (
    (8, (1, 2, 4), (1, 2, 4, 8)),
    (16, (1, 2, 4), (2, 4, 8)),
    (32, (2, 4), (4, 8)),
    (96, None, (8,)),
)
N1_ACCELERATORS = ("NVIDIA_TESLA_K80", "NVIDIA_TESLA_P4", "NVIDIA_TESLA_P100", "NVIDIA_TESLA_T4", "NVIDIA_TESLA_V100")


def n1_counts(vcpus: int, accelerator: str) -> tuple[int, ...] | None:
    """How many GPUs of a kind an N1 machine may have; None: the source does not say."""
    small, v100 = next(row[1:] for row in _N1_GPUS if vcpus <= row[0])
    counts = {"NVIDIA_TESLA_V100": v100, "NVIDIA_TESLA_K80": None}
    return counts.get(accelerator, small)


def machine(machine_type: str) -> Machine | None:
    """The machine of that type; None: not a type that Vertex AI's documentation names."""
    return MACHINES.get(machine_type)


def nearest(machine_type: str) -> str | None:
    """The known type that an unknown one is most like."""
    close = get_close_matches(machine_type.lower(), MACHINES, n=1, cutoff=0.6)
    return close[0] if close else None
