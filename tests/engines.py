"""Which real engines this machine has, asked once of ``dev/engines``."""

from __future__ import annotations

import fcntl
import json
import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

STALL = 60.0
"""Seconds that a busy machine may stand still. How quick something is, is printed, and measured in ``bench/``; tests only tell it
from what never happens."""
DEV_ENGINES = Path(__file__).parent.parent / "dev" / "engines"


def dev_engines(*args: str, instance: int = 0) -> subprocess.CompletedProcess[str]:
    """Run ``dev/engines``; its output is text, and a failure is for the caller to judge."""
    env = {**os.environ, "ENGINE_INSTANCE": str(instance)}
    return subprocess.run([DEV_ENGINES, *args], env=env, capture_output=True, text=True, check=False, timeout=300)


@cache
def why_not(engine: str) -> str:
    """Why the tests marked ``engine`` cannot run here; empty when they can."""
    if engine == "chaos":
        able = os.geteuid() == 0 and shutil.which("dockerd") and shutil.which("unshare")
        return "" if able else "chaos: only root with dockerd and unshare installed can start a Docker to kill"
    done = dev_engines("why", engine)
    return done.stdout.strip() or done.stderr.strip() if done.returncode else ""


@cache
def exports(instance: int = 0) -> dict[str, str]:
    """The variables that ``dev/engines env`` exports."""
    words = shlex.split(dev_engines("env", instance=instance).stdout)
    return dict(word.split("=", 1) for word in words if word != "export")


@dataclass(frozen=True)
class OwnDocker:
    """A Docker that this test may kill: its own daemon, data and network namespace.

    :param instance: 1..9, the ``ENGINE_INSTANCE`` of ``dev/engines``.
    """

    instance: int

    @property
    def host(self) -> str:
        """What ``DOCKER_HOST`` is for it."""
        return f"unix:///var/run/customjob-docker-{self.instance}.sock"

    def up(self) -> None:
        """Start it (again); it answers on return."""
        self._do("up")

    def kill(self) -> None:
        """SIGKILL to the daemon; its containers live on until it is up again."""
        self._do("kill")

    def restart(self) -> None:
        """Stop the daemon with SIGTERM, which ends its containers, and start it."""
        self._do("restart")

    def down(self) -> None:
        """Stop it and remove all it had."""
        self._do("down")

    def stored(self, container: str) -> list[str]:
        """What the daemon has put away of what a container has said, line by line.

        :param container: its name.
        """
        for folder in Path(f"/var/lib/customjob-docker-{self.instance}/containers").iterdir():
            if json.loads((folder / "config.v2.json").read_bytes())["Name"] == f"/{container}":
                entries = (folder / f"{folder.name}-json.log").read_text().splitlines()
                return [entry["log"].removesuffix("\n") for entry in map(json.loads, entries)]
        raise AssertionError(f"the Docker of its own has no container {container}")

    def _do(self, command: str) -> None:
        done = dev_engines(command, "docker", instance=self.instance)
        assert done.returncode == 0, f"dev/engines {command} docker: {done.stderr}"


@contextmanager
def own_instance(engine: str) -> Iterator[int]:
    """The first instance, from the last one down, that no other test session on this machine holds."""
    for instance in range(9, 0, -1):
        with (Path(tempfile.gettempdir()) / f"customjob-{engine}-{instance}.lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            yield instance
            return
    raise RuntimeError(f"nine test sessions on this machine hold a {engine} of their own already")


@contextmanager
def own_docker_of_this_session() -> Iterator[OwnDocker]:
    """Up, and nothing of it is left afterwards."""
    with own_instance("docker") as instance:
        docker = OwnDocker(instance)
        docker.down()  # of a session that was killed
        try:
            docker.up()
            yield docker
        finally:
            docker.down()
