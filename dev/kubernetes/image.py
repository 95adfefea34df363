"""Writes a tar of a root file system to standard output as a one-layer image, in the form that ``ctr images import`` reads."""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import sys
import tarfile
from pathlib import Path


def add(out: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    out.addfile(info, io.BytesIO(data))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tar", type=Path, help="the root file system")
    parser.add_argument("name", help="docker.io/local/py:1")
    parser.add_argument("--architecture", default="amd64")
    parser.add_argument("--env", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--cmd", nargs="+", default=[])
    given = parser.parse_args()
    with given.tar.open("rb") as layer:
        digest = hashlib.file_digest(layer, "sha256").hexdigest()
    config = json.dumps(
        {
            "architecture": given.architecture,
            "os": "linux",
            "config": {
                "Cmd": given.cmd,
                "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", *given.env],
            },
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
        }
    ).encode()
    name = f"{hashlib.sha256(config).hexdigest()}.json"
    manifest = [{"Config": name, "RepoTags": [given.name], "Layers": [f"{digest}/layer.tar"]}]
    with tarfile.open(fileobj=sys.stdout.buffer, mode="w|") as out:
        add(out, name, config)
        add(out, "manifest.json", json.dumps(manifest).encode())
        out.add(given.tar, f"{digest}/layer.tar")


if __name__ == "__main__":
    main()
