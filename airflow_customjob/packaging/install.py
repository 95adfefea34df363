"""Installs packages where the job will run: a script for the executor image's own Python, 3.7 or later, and nothing else.

``python3 install.py``, in a folder with ``order.json`` that says what. The commands are those of Vertex AI's own executor, and
they are told in its words. ``python3 install.py --pin`` also writes down which versions each package's dependencies came to; where
that lies beside an order, as ``pins.json``, they come to the same again.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import shlex
import shutil
import signal
import site
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

USER_BASE = "/opt/customjob/packages"
"""Where packages are installed: by whoever the image's user is, and found by whoever runs the replica."""
REFUSED = 3
"""Exit code: the last line says why."""
GATE_PATIENCE = 60.0
"""Seconds until the way out must be open."""
TRIES, STALL = 5, 60.0
"""Of a download, and seconds without a byte after which it has broken off."""
PINS = "pins.json"
_LIST = (
    "import importlib.metadata as m, json; "
    "print(json.dumps({d.metadata['Name']: d.version for d in reversed(list(m.distributions()))}))"
)
"""Of a project that lies in several places Python takes the first, which so comes last here."""
_CHUNK = 2**20


class Refusal(Exception):
    """Why nothing can be installed, and what to do."""


def install_commands(
    filename: str, pip: tuple[str, ...] = ("pip3", "install", "--user"), constraints: str = ""
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Vertex AI's two passes: this very build, whatever is there already; then what it depends on.

    Each package is installed whole before the next one (the executor's run_module.py, seen in its own log).

    :param constraints: a file with the versions that dependencies come to; empty: whatever the index has.
    """
    held = ("--constraint", constraints) if constraints else ()
    return (*pip, "--upgrade", "--force-reinstall", "--no-deps", filename), (*pip, *held, filename)


def installer(only_user_base: bool = False) -> tuple[str, ...]:
    """uv where the image has it and may write beside its Python; else pip, for the user as Vertex AI's executor does.

    A virtual environment has no packages of a user.

    :param only_user_base: nothing else of this container will be there when the job runs.
    """
    uv = shutil.which("uv")
    if uv and not only_user_base and os.access(sysconfig.get_path("purelib"), os.W_OK):
        return (uv, "pip", "install", "--break-system-packages", "--python", sys.executable)
    where = ("--user",) if site.ENABLE_USER_SITE else ()
    if only_user_base and not where:
        raise Refusal(
            f"{sys.executable} of the executor image is a virtual environment's, which has no packages of a user: put a "
            "python3 without one first on its PATH, or the packages into the image"
        )
    if subprocess.run([sys.executable, "-m", "pip", "--version"], capture_output=True, check=False).returncode == 0:
        return (*_pip_of(shutil.which("python3"), shutil.which("pip3")), "install", *where)
    raise Refusal(
        f"the executor image has {sys.executable}, but neither pip nor a uv that may write to "
        f"{sysconfig.get_path('purelib')}: add pip to it (python3 -m ensurepip), or take another image"
    )


def _pip_of(python: str | None, pip: str | None) -> tuple[str, ...]:
    """A pip3 that lies elsewhere than python3 may be another Python's."""
    together = python and pip and os.path.dirname(python) == os.path.dirname(pip)
    return ("pip3",) if together else (sys.executable, "-m", "pip")


def environment(work: str, indexes: list[str], certificates: str | None) -> dict[str, str]:
    """Of the installer: what is cached or unpacked on the way stays out of the image.

    :param work: a folder to write to.
    :param indexes: where to look for packages, the first one in place of PyPI; empty: where the image says.
    :param certificates: a file of authorities to trust; None: the image's own.
    """
    ours = {
        "PYTHONUSERBASE": USER_BASE,
        "TMPDIR": os.path.join(work, "tmp"),
        "PIP_BREAK_SYSTEM_PACKAGES": "1",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_NO_CACHE_DIR": "1",
        "PIP_NO_INPUT": "1",
        "PIP_NO_WARN_SCRIPT_LOCATION": "1",
        "PIP_PROGRESS_BAR": "off",
        "PIP_ROOT_USER_ACTION": "ignore",
        "UV_LINK_MODE": "copy",
        "UV_NO_CACHE": "1",
        "UV_NO_PROGRESS": "1",
    }
    if indexes:
        first, *others = indexes
        ours.update(PIP_INDEX_URL=first, UV_DEFAULT_INDEX=first)
        if others:
            ours.update(PIP_EXTRA_INDEX_URL=" ".join(others), UV_INDEX=" ".join(others))
        ours.update(NO_PROXY="127.0.0.1", no_proxy="127.0.0.1")
        plain = [urllib.parse.urlsplit(index).netloc for index in indexes if index.startswith("http://")]
        if plain:  # whoever named it has said that it has no TLS; pip would pass it over
            ours["PIP_TRUSTED_HOST"] = " ".join((*os.environ.get("PIP_TRUSTED_HOST", "").split(), *plain))
    if certificates:
        ours.update(dict.fromkeys(("PIP_CERT", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"), certificates))
    return {**os.environ, **ours}


def main(folder: str, pin: bool = False) -> None:
    """:param pin: write down which versions each package's dependencies came to."""
    order = _read(os.path.join(folder, "order.json"))
    end = time.monotonic() + order["seconds"]
    os.umask(0o022)
    if order["gate"]:
        _wait_for(order["gate"])
    work = order.get("work", folder)
    for name in ("out", "tmp"):
        os.makedirs(os.path.join(work, name), exist_ok=True)
    for package, pieces in order.get("parts", {}).items():
        _join(package, [os.path.join(folder, piece) for piece in pieces])
    for package, source in order.get("fetch", {}).items():
        _fetch(package, source)
    env = environment(work, order["indexes"], order["certificates"])
    pip = installer(order.get("only_user_base", False))
    pinned = os.path.join(folder, PINS)
    told = _read(pinned) if os.path.exists(pinned) else ()
    before = known = _installed(env)
    held: dict[str, str] = {}
    own: set[str] = set()
    pins: list[dict[str, str]] = []
    for number, package in enumerate(order["packages"]):
        held.update(told[number] if told else {})
        print("Installing the package", flush=True)
        for command in install_commands(os.path.basename(package), pip, _constraints(work, held)):
            print("Running command: " + " ".join(map(shlex.quote, command)), flush=True)
            _run(command, env, os.path.dirname(os.path.join(folder, package)), end, order["seconds"])
            if pin:
                earlier, known = known, _installed(env)
                pins.append(_news(earlier, known))
        if pin:  # of a package's own name no version is held: some that are built have another one each time
            dependencies, itself = pins.pop(), pins.pop()
            own.update(itself)
            pins.append({name: "" if name in own else version for name, version in {**itself, **dependencies}.items()})
    news = _news(before, _installed(env))
    if order.get("compile"):
        _compile(env)
    with open(os.path.join(work, "out", "installed.json"), "w", encoding="utf-8") as file:
        json.dump(news, file)
    if pin:
        with open(os.path.join(work, "out", PINS), "w", encoding="utf-8") as file:
            json.dump({"installed": news, "pins": pins}, file)


def _read(path: str) -> Any:
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def _news(before: dict[str, str], after: dict[str, str]) -> dict[str, str]:
    return {name: version for name, version in after.items() if before.get(name) != version}


def _constraints(work: str, held: dict[str, str]) -> str:
    """A file that holds these projects at their versions, as far as they have one; empty: none has."""
    lines = [f"{name}=={version}\n" for name, version in held.items() if version]
    path = os.path.join(work, "constraints.txt")
    if not lines:
        return ""
    with open(path, "w", encoding="utf-8") as file:
        file.writelines(lines)
    return path


def _fetch(package: str, source: dict[str, Any]) -> None:
    """
    :param source: ``url``, ``shown`` (of it, what may be told), ``sha256`` and ``size``.
    :raises Refusal: it cannot be had, or is not what it was.
    """
    print(f"Downloading the package: {source['shown']}", flush=True)
    os.makedirs(os.path.dirname(package), exist_ok=True)
    why = ""
    for turn in range(TRIES):
        time.sleep(2 ** (turn - 1) if turn else 0)
        try:
            digest, size = _download(source["url"], package, source["size"])
        except urllib.error.HTTPError as error:
            why = f"HTTP {error.code}"
            if error.code < 500 and error.code not in (408, 425, 429):
                break
        except (OSError, http.client.HTTPException) as error:  # their own words may quote the URL
            why = getattr(error, "strerror", None) or str(getattr(error, "reason", "")) or type(error).__name__
        else:
            if digest == source["sha256"]:
                return
            why = f"it ended after {size:,} of {source['size']:,} bytes"
            if size >= source["size"]:
                raise Refusal(
                    f"{source['shown']} has changed since the job was made: the sha256 was {source['sha256']}; publish other "
                    "code under another name"
                )
    raise Refusal(f"{source['shown']} cannot be downloaded here: {why}; is that server reached without a login?")


def _download(url: str, path: str, size: int) -> tuple[str, int]:
    """The sha256 of what came, and its size; one byte more than expected is enough to know."""
    digest, got = hashlib.sha256(), 0
    request = urllib.request.Request(url, headers={"Accept-Encoding": "identity"})  # noqa: S310 - http(s), as was fetched before
    with urllib.request.urlopen(request, timeout=STALL) as answer, open(path, "wb") as file:  # noqa: S310 - likewise
        while got <= size:
            data = answer.read(min(_CHUNK, size + 1 - got))
            if not data:
                break
            digest.update(data)
            got += file.write(data)
    return digest.hexdigest(), got


def _join(package: str, pieces: list[str]) -> None:
    os.makedirs(os.path.dirname(package), exist_ok=True)
    with open(package, "wb") as file:
        for piece in pieces:
            with open(piece, "rb") as part:
                shutil.copyfileobj(part, file)


def _wait_for(port: int) -> None:
    end = time.monotonic() + GATE_PATIENCE
    while time.monotonic() < end:
        try:
            socket.create_connection(("127.0.0.1", port), 1.0).close()
        except OSError:
            time.sleep(0.02)
        else:
            return
    raise Refusal("the way out of this container was not opened")


def _run(command: tuple[str, ...], env: dict[str, str], cwd: str, end: float, seconds: float) -> None:
    """Ends this process with the command's own exit code if it fails."""
    process = subprocess.Popen(command, env=env, cwd=cwd, stdin=subprocess.DEVNULL, start_new_session=True)
    try:
        code = process.wait(max(0.0, end - time.monotonic()))
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise Refusal(
            f"the installation was ended: it took longer than build_timeout, {seconds:.0f} s; give it more"
        ) from None
    if code:
        sys.exit(code if code > 0 else 128 - code)


def _compile(env: dict[str, str]) -> None:
    """Byte code that does not go by the times of files, which the image will not have."""
    command = (sys.executable, "-m", "compileall", "-q", "-f", "--invalidation-mode", "unchecked-hash", USER_BASE)
    subprocess.run(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)


def _installed(env: dict[str, str]) -> dict[str, str]:
    """Versions by project; nothing where this Python cannot tell (3.7)."""
    done = subprocess.run([sys.executable, "-c", _LIST], env=env, capture_output=True, text=True, check=False)
    return json.loads(done.stdout) if done.returncode == 0 else {}


if __name__ == "__main__":
    try:
        main(os.path.dirname(os.path.abspath(__file__)), pin=sys.argv[1:] == ["--pin"])
    except Refusal as refusal:
        print(refusal, flush=True)
        sys.exit(REFUSED)
