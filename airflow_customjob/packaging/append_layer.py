"""Makes an image of a base image and one folder, in a registry: a script for the executor image's own Python, 3.7 or later, and
nothing else.

``python3 -I -S append_layer.py``, in a folder with ``append.json``. It needs no daemon and no privilege: the base image's layers
are mounted within a registry, or copied from another one, and one layer is added. It alone knows the registry's password, and
so it runs nothing of what it packs, and follows no link in it.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import http.client
import json
import os
import re
import ssl
import stat
import sys
import tarfile
import time
import urllib.error
import urllib.parse
import urllib.request
from typing import Any, BinaryIO

INDEXES = ("application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json")
MANIFESTS = {
    "application/vnd.oci.image.manifest.v1+json": "application/vnd.oci.image.layer.v1.tar+gzip",
    "application/vnd.docker.distribution.manifest.v2+json": "application/vnd.docker.image.rootfs.diff.tar.gzip",
}
"""Kinds of manifests, and what each calls a layer."""
TRIES, PATIENCE = 5, 60.0
"""Of a request, and seconds without a byte after which one has failed."""
MAX_MANIFEST = 4 * 2**20
MAX_NOTED = 3_000
"""Bytes of a note that the result repeats: a Pod's last words have 4,096."""
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
"""What an image's index calls a machine; any other name is its own."""
DOCKER_HUB = ("docker.io", "index.docker.io", "registry-1.docker.io")


class Refusal(Exception):
    """Why there is no image, and what to do."""


# -- the registry ---------------------------------------------------------------------------------------------------


class Image:
    """``host[:port]/repository[:tag][@digest]``, as Docker reads it."""

    def __init__(self, name: str) -> None:
        first, slash, rest = name.partition("/")
        has_host = slash and ("." in first or ":" in first or first == "localhost")
        host, path = (first, rest) if has_host else ("docker.io", name)
        path, _, digest = path.partition("@")
        repository, colon, tag = path.rpartition(":")
        if not colon or "/" in tag:
            repository, tag = path, "latest"
        self.host = host
        self.repository = f"library/{repository}" if host == "docker.io" and "/" not in repository else repository
        self.reference = digest or tag
        self.name = f"{host}/{repository}"


class Answer:
    """:param body: open, and to be closed."""

    def __init__(self, status: int, headers: Any, body: Any) -> None:
        self.status, self.headers, self.body = status, headers, body

    def read(self) -> bytes:
        with self.body:
            data: bytes = self.body.read(MAX_MANIFEST + 1)
        if len(data) > MAX_MANIFEST:
            raise Refusal("the registry sent a manifest that is too large to be one")
        return data


class Registry:
    """
    :param host: its name, as images have it.
    :param login: ``user:password``; empty: none.
    :param tries: of a request.
    :param patience: seconds without a byte after which one has failed.
    :param login_from: where people put the login.
    """

    def __init__(
        self,
        host: str,
        login: str,
        plain_http: bool,
        context: ssl.SSLContext,
        *,
        tries: int = TRIES,
        patience: float = PATIENCE,
        login_from: str = "registry_secret",
    ) -> None:
        address = "registry-1.docker.io" if host in DOCKER_HUB else host
        self.root = f"{'http' if plain_http else 'https'}://{address}"
        self.host = host
        self._login = login
        self._tries, self._patience, self._login_from = tries, patience, login_from
        self._authorization: dict[str, str] = {}
        self._opener = urllib.request.build_opener(urllib.request.HTTPSHandler(context=context))

    def call(
        self,
        method: str,
        path: str,
        scope: str,
        *,
        body: Any = None,
        size: int | None = None,
        ok: tuple[int, ...] = (200,),
        **headers: str,
    ) -> Answer:
        """
        :param scope: what a token must allow.
        :param body: bytes, or a file that is read from its start at each try.
        :raises Refusal: the registry does not do it.
        """
        url = urllib.parse.urljoin(self.root, path)
        for turn in range(1, self._tries + 1):
            answer = self._once(method, url, scope, body, size, headers)
            if answer.status == 401 and self._authorize(answer, scope):
                answer = self._once(method, url, scope, body, size, headers)
            if answer.status in ok:
                return answer
            why = self._why(answer)
            if answer.status < 500 and answer.status != 429:
                break
            time.sleep(0.0 if turn == self._tries else 0.5 * 2**turn)
        raise Refusal(f"the registry {self.host} refused to {method} {urllib.parse.urlsplit(url).path}: {why}")

    def _once(self, method: str, url: str, scope: str, body: Any, size: int | None, headers: dict[str, str]) -> Answer:
        if hasattr(body, "seek"):
            body.seek(0)
        request = urllib.request.Request(url, body, method=method)  # noqa: S310 - a registry's
        for name, value in headers.items():
            request.add_header(name.replace("_", "-"), value)
        if size is not None:
            request.add_header("Content-Length", str(size))
        if scope in self._authorization and url.startswith(f"{self.root}/"):
            # Not sent on where we are sent elsewhere: layers often lie in somebody's object storage.
            request.add_unredirected_header("Authorization", self._authorization[scope])
        try:
            response = self._opener.open(request, timeout=self._patience)
        except urllib.error.HTTPError as error:
            return Answer(error.code, error.headers, error)
        except (OSError, http.client.HTTPException) as error:
            return Answer(599, {}, _Words(str(getattr(error, "reason", error)) or type(error).__name__))
        return Answer(response.status, response.headers, response)

    def _authorize(self, answer: Answer, scope: str) -> bool:
        """As the registry has asked for. False: nothing that we have has not been tried."""
        kind, _, rest = (answer.headers.get("WWW-Authenticate") or "").partition(" ")
        basic = "Basic " + base64.b64encode(self._login.encode()).decode()
        if kind.lower() == "basic" and self._login:
            found = basic
        elif kind.lower() == "bearer":
            asked = dict(re.findall(r'(\w+)="([^"]*)"', rest))
            query = urllib.parse.urlencode({"service": asked.get("service", ""), "scope": scope})
            request = urllib.request.Request(f"{asked.get('realm', '')}?{query}")  # noqa: S310 - the registry's own
            if self._login:
                request.add_unredirected_header("Authorization", basic)
            try:
                with self._opener.open(request, timeout=self._patience) as response:
                    granted = json.loads(response.read(MAX_MANIFEST))
            except (OSError, ValueError) as error:
                raise Refusal(f"the registry {self.host} sent us for a token, and got none: {error}") from None
            found = f"Bearer {granted.get('token') or granted.get('access_token')}"
        else:
            return False
        if self._authorization.get(scope) == found:
            return False
        self._authorization[scope] = found
        answer.body.close()
        return True

    def _why(self, answer: Answer) -> str:
        words = answer.read().decode(errors="replace").strip()[:500]
        if answer.status in (401, 403):
            who = f"as {self._login.partition(':')[0]}" if self._login else "without a login"
            words = words or "no reason given"
            return (
                f"HTTP {answer.status}, {who}: {words}; does {self._login_from} hold a login for {self.host} that may?"
            )
        return words if answer.status == 599 else f"HTTP {answer.status}: {words or 'no reason given'}"


class _Words:
    """An answer that never came, and why."""

    def __init__(self, words: str) -> None:
        self._words = words

    def __enter__(self) -> _Words:  # noqa: PYI034 - Self is younger than the oldest Python here
        return self

    def __exit__(self, *_: object) -> None: ...

    def read(self, _: int) -> bytes:
        return self._words.encode()

    def close(self) -> None: ...


def login_for(host: str, auths: dict[str, Any]) -> str:
    """``user:password`` of a ``.dockerconfigjson``; empty: it has none for this host."""
    names = DOCKER_HUB if host in DOCKER_HUB else (host,)
    for key, entry in auths.items():
        if re.sub(r"^https?://", "", key).partition("/")[0] in names:
            if entry.get("auth"):
                return base64.b64decode(entry["auth"]).decode()
            return f"{entry.get('username', '')}:{entry.get('password', '')}"
    return ""


# -- the layer ------------------------------------------------------------------------------------------------------


def write_layer(tree: str, at: str, out: BinaryIO) -> tuple[str, int]:
    """A gzipped tar of a folder, the same bytes for the same files: sorted, without times and owners.

    Nothing outside of the folder is read, whatever lies in it, and whoever changes it meanwhile.

    :param at: where it lies in the image.
    :returns: sha256 of the tar itself, and how many files there are.
    """
    hashed = _Hashed(gzip.GzipFile(filename="", mode="wb", compresslevel=6, fileobj=out, mtime=0))
    counted = 0
    with hashed.file, tarfile.open(fileobj=hashed, mode="w|", format=tarfile.PAX_FORMAT) as tar:  # type: ignore[call-overload] # it only writes
        root = os.open(tree, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        stack = [(root, at.strip("/"))]
        tar.addfile(_entry(stack[0][1], tarfile.DIRTYPE, 0o755))
        while stack:
            folder, path = stack.pop()
            inner = []
            for name in sorted(os.listdir(folder)):
                where, about = f"{path}/{name}", os.stat(name, dir_fd=folder, follow_symlinks=False)
                if stat.S_ISDIR(about.st_mode):
                    tar.addfile(_entry(where, tarfile.DIRTYPE, 0o755))
                    inner.append((os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=folder), where))
                elif stat.S_ISLNK(about.st_mode):
                    link = _entry(where, tarfile.SYMTYPE, 0o777)
                    link.linkname = os.readlink(name, dir_fd=folder)
                    tar.addfile(link)
                elif stat.S_ISREG(about.st_mode):
                    _add_file(tar, folder, name, where)
                    counted += 1
                else:
                    print(f"left out of the image, since it is no file: /{where}", flush=True)
            os.close(folder)
            stack += reversed(inner)
    return "sha256:" + hashed.sha256.hexdigest(), counted


def _add_file(tar: tarfile.TarFile, folder: int, name: str, where: str) -> None:
    with open(os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder), "rb") as file:
        about = os.fstat(file.fileno())
        if not stat.S_ISREG(about.st_mode):
            raise Refusal(f"/{where} changed while it was read")
        entry = _entry(where, tarfile.REGTYPE, 0o755 if about.st_mode & 0o111 else 0o644)
        entry.size = about.st_size
        tar.addfile(entry, file)


def _entry(path: str, kind: bytes, mode: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(path)
    entry.type, entry.mode = kind, mode
    return entry


class _Hashed:
    def __init__(self, file: gzip.GzipFile) -> None:
        self.file = file
        self.sha256 = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.sha256.update(data)
        return self.file.write(data)


# -- the image ------------------------------------------------------------------------------------------------------


def image_config(config: dict[str, Any], diff_id: str, env: dict[str, str], labels: dict[str, str]) -> dict[str, Any]:
    """The base's own, with one layer more."""
    inner = dict(config.get("config") or {})
    kept = [entry for entry in inner.get("Env") or [] if entry.partition("=")[0] not in env]
    inner["Env"] = kept + [f"{name}={value}" for name, value in env.items()]
    inner["Labels"] = {**(inner.get("Labels") or {}), **labels}
    rootfs = config["rootfs"]
    added = {
        "created": config.get("created", "1970-01-01T00:00:00Z"),
        "created_by": "airflow-customjob",
        "comment": "python_package_spec",
    }
    return {
        **config,
        "config": inner,
        "rootfs": {**rootfs, "diff_ids": [*rootfs["diff_ids"], diff_id]},
        "history": [*(config.get("history") or []), added],
    }


def manifest_of(registry: Registry, image: Image, platform: dict[str, str]) -> tuple[dict[str, Any], str]:
    """Of one platform, and its kind."""
    reference, scope = image.reference, f"repository:{image.repository}:pull"
    for _ in range(2):
        path = f"/v2/{image.repository}/manifests/{reference}"
        answer = registry.call("GET", path, scope, Accept=", ".join((*INDEXES, *MANIFESTS)))
        manifest = json.loads(answer.read())
        kind = manifest.get("mediaType") or answer.headers.get("Content-Type", "").partition(";")[0]
        if kind in MANIFESTS:
            return manifest, kind
        if kind not in INDEXES:
            raise Refusal(f"{image.name}: the registry gives a manifest of the kind {kind}, which is not known here")
        fit = [
            entry for entry in manifest["manifests"]
            if all((entry.get("platform") or {}).get(name) == value for name, value in platform.items())
        ]  # fmt: skip
        if not fit:
            raise Refusal(f"{image.name} has no image for {'/'.join(platform.values())}")
        reference = fit[0]["digest"]
    raise Refusal(f"{image.name}: an index of indexes is not known here")


def bring(blob: dict[str, Any], source: Registry, base: Image, target: Registry, image: Image, spool: str) -> None:
    """Have a blob of the base in the target's repository."""
    scope, digest = f"repository:{image.repository}:pull,push", blob["digest"]
    found = target.call("HEAD", f"/v2/{image.repository}/blobs/{digest}", scope, ok=(200, 404))
    found.body.close()
    if found.status == 200:
        return
    uploads = f"/v2/{image.repository}/blobs/uploads/"
    if source is target:
        both = f"{scope} repository:{base.repository}:pull"
        query = urllib.parse.urlencode({"mount": digest, "from": base.repository})
        mounted = target.call("POST", f"{uploads}?{query}", both, body=b"", ok=(201, 202))
        mounted.body.close()
        if mounted.status == 201:
            return
    print(f"copying {digest[:19]} ({blob['size'] / 1e6:,.1f} MB)", flush=True)
    answer = source.call("GET", f"/v2/{base.repository}/blobs/{digest}", f"repository:{base.repository}:pull")
    with answer.body, open(os.path.join(spool, "blob"), "w+b") as file:
        hashed = hashlib.sha256()
        for data in iter(lambda: answer.body.read(2**20), b""):
            hashed.update(data)
            file.write(data)
        if f"sha256:{hashed.hexdigest()}" != digest:
            raise Refusal(f"the registry {source.host} gave other bytes than those of {digest}")
        upload(target, image, digest, file)


def upload(target: Registry, image: Image, digest: str, file: Any) -> None:
    """:param file: open, and read from its start."""
    scope = f"repository:{image.repository}:pull,push"
    begun = target.call("POST", f"/v2/{image.repository}/blobs/uploads/", scope, body=b"", ok=(202,))
    begun.body.close()
    place = urllib.parse.urljoin(target.root, begun.headers["Location"])
    place += ("&" if "?" in place else "?") + urllib.parse.urlencode({"digest": digest})
    size = file.seek(0, os.SEEK_END)
    target.call(
        "PUT", place, scope, body=file, size=size, ok=(201,), Content_Type="application/octet-stream"
    ).body.close()


def main(folder: str) -> None:
    with open(os.path.join(folder, "append.json"), encoding="utf-8") as file:
        order = json.load(file)
    auths: dict[str, Any] = {}
    if order["auths"]:
        with open(order["auths"], encoding="utf-8") as file:
            auths = json.load(file).get("auths") or {}
    context = ssl.create_default_context()
    if order["certificates"]:
        context.load_verify_locations(order["certificates"])
    base, image = Image(order["base"]), Image(order["target"])
    registries = {
        host: Registry(host, login_for(host, auths), host in order["plain_http"], context)
        for host in {base.host, image.host}
    }
    source, target = registries[base.host], registries[image.host]
    manifest, kind = manifest_of(
        source, base, {"os": "linux", "architecture": ARCHITECTURES.get(os.uname().machine, os.uname().machine)}
    )
    pulled = source.call(
        "GET", f"/v2/{base.repository}/blobs/{manifest['config']['digest']}", f"repository:{base.repository}:pull"
    )
    config = json.loads(pulled.read())
    spool = order["spool"]
    with open(os.path.join(spool, "layer"), "w+b") as layer:
        diff_id, files = write_layer(order["tree"], order["at"], layer)
        digest, size = digest_of(layer)
        print(f"{files} files, {size / 1e6:,.1f} MB, are added to {order['base']}", flush=True)
        for blob in manifest["layers"]:
            bring(blob, source, base, target, image, spool)
        upload(target, image, digest, layer)
    noted = notes_of(order["notes"])
    labels = {**order["labels"], **({order["noted_as"]: noted} if noted else {})}
    text = json.dumps(image_config(config, diff_id, order["env"], labels), sort_keys=True).encode()
    with open(os.path.join(spool, "config"), "w+b") as file:
        file.write(text)
        upload(target, image, f"sha256:{hashlib.sha256(text).hexdigest()}", file)
    made = {
        **manifest,
        "mediaType": kind,
        "config": {**manifest["config"], "digest": f"sha256:{hashlib.sha256(text).hexdigest()}", "size": len(text)},
        "layers": [*manifest["layers"], {"mediaType": MANIFESTS[kind], "digest": digest, "size": size}],
    }
    body = json.dumps(made, sort_keys=True).encode()
    path, scope = f"/v2/{image.repository}/manifests/{image.reference}", f"repository:{image.repository}:pull,push"
    target.call("PUT", path, scope, body=body, ok=(201,), Content_Type=kind).body.close()
    done = json.dumps({"digest": f"sha256:{hashlib.sha256(body).hexdigest()}", "noted": noted[:MAX_NOTED]})
    with open(order["result"], "w", encoding="utf-8") as file:
        file.write(done)


def digest_of(file: BinaryIO) -> tuple[str, int]:
    file.seek(0)
    hashed = hashlib.sha256()
    for data in iter(lambda: file.read(2**20), b""):
        hashed.update(data)
    return f"sha256:{hashed.hexdigest()}", file.tell()


def notes_of(path: str | None) -> str:
    """Versions that the installation has written down: one line of ``name==version``. Code of a package may have written it."""
    if not path:
        return ""
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), encoding="utf-8") as file:
            versions = json.loads(file.read(2**20))
    except (OSError, ValueError):
        return ""
    pairs = sorted(f"{name}=={version}" for name, version in versions.items()) if isinstance(versions, dict) else []
    return " ".join(pair for pair in pairs if re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9._+!-]+", pair))


if __name__ == "__main__":
    try:
        main(os.path.dirname(os.path.abspath(__file__)))
    except Refusal as refusal:
        sys.exit(str(refusal))
