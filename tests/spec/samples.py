"""Good specs, and google-cloud-aiplatform's own reading of them, for all tests of spec."""

from __future__ import annotations

import copy
from typing import Any

from google.cloud.aiplatform_v1 import types as vertex
from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.message import Message

CONTAINER: dict[str, Any] = {
    "displayName": "two pools",
    "labels": {"team": "vision", "kürzel_1": ""},
    "jobSpec": {
        "workerPoolSpecs": [
            {
                "machineSpec": {
                    "machineType": "n1-standard-8",
                    "acceleratorType": "NVIDIA_TESLA_T4",
                    "acceleratorCount": 2,
                },
                "replicaCount": "1",
                "diskSpec": {"bootDiskType": "pd-ssd", "bootDiskSizeGb": 200},
                "nfsMounts": [{"server": "10.0.0.1", "path": "/share", "mountPoint": "data"}],
                "containerSpec": {
                    "imageUri": "europe-docker.pkg.dev/p/r/train:1",
                    "command": ["bash", "-c"],
                    "args": ["exec train ${EXTRA:-<unset>} --n=${#a[@]} --host=$(HOSTNAME)\n"],
                    "env": [
                        {"name": "A", "value": "1"},
                        {"name": "B", "value": "$(A)2"},
                        {"name": "EMPTY", "value": ""},
                    ],
                },
            },
            {
                "machineSpec": {"machineType": "n1-standard-4"},
                "replicaCount": "3",
                "containerSpec": {"imageUri": "europe-docker.pkg.dev/p/r/train:1", "args": ["worker", "{{ literal }}"]},
            },
        ],
        "scheduling": {"timeout": "3.500s", "restartJobOnWorkerRestart": True, "strategy": "SPOT"},
        "baseOutputDirectory": {"outputUriPrefix": "gs://bucket/run"},
        "serviceAccount": "trainer@p.iam.gserviceaccount.com",
        "pscInterfaceConfig": {
            "networkAttachment": "n",
            "dnsPeeringConfigs": [{"domain": "d.", "targetProject": "p", "targetNetwork": "t"}],
        },
    },
    "encryptionSpec": {"kmsKeyName": "projects/p/locations/l/keyRings/r/cryptoKeys/k"},
}

PACKAGE: dict[str, Any] = {
    "displayName": "package",
    "jobSpec": {
        "workerPoolSpecs": [
            {
                "machineSpec": {"machineType": "n1-highmem-4"},
                "replicaCount": "1",
                "pythonPackageSpec": {
                    "executorImageUri": "europe-docker.pkg.dev/vertex-ai/training/pytorch-xla.2-4.py310:latest",
                    "packageUris": ["gs://bucket/trainer-0.1.tar.gz", "gs://bucket/extra-1.0-py3-none-any.whl"],
                    "pythonModule": "trainer.task",
                    "args": ["--epochs=5"],
                    "env": [{"name": "SEED", "value": "7"}],
                },
            },
            {},
            {
                "machineSpec": {"machineType": "n1-highcpu-16"},
                "replicaCount": "2",
                "containerSpec": {"imageUri": "reducer"},
            },
        ],
    },
}

GOOD: dict[str, dict[str, Any]] = {"container": CONTAINER, "package": PACKAGE}


def google_pb(data: dict[str, Any]) -> Message:
    """Google's protobuf CustomJob of proto3 JSON."""
    return ParseDict(copy.deepcopy(data), vertex.CustomJob.pb(vertex.CustomJob()))


def google_canonical(data: dict[str, Any]) -> dict[str, Any]:
    return MessageToDict(google_pb(data))


def snake(value: Any, *, every: int = 1) -> Any:
    """The same with every field name (or every second one, for a mixed spelling) in snake_case."""
    seen = [0]

    def respell(item: Any, path: tuple[str, ...]) -> Any:
        if isinstance(item, list):
            return [respell(element, path) for element in item]
        if not isinstance(item, dict) or path[-1:] == ("labels",):
            return item
        result = {}
        for key, below in item.items():
            seen[0] += 1
            name = "".join(f"_{char.lower()}" if char.isupper() else char for char in key)
            result[name if seen[0] % every == 0 else key] = respell(below, (*path, key))
        return result

    return respell(value, ())
