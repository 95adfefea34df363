"""Bytes from Cloud Storage (``gs://``), by google-cloud-storage: it tries again, and goes on with the same generation."""

from __future__ import annotations

import asyncio
import base64
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow_customjob.packaging.google_keys import SCOPE, credentials_of
from airflow_customjob.packaging.package import PackageError, Unchanged

if TYPE_CHECKING:
    from airflow_customjob.packaging.store import Sink

PATIENCE = 600.0
"""Seconds in which a download that breaks off is gone on with."""
STALL = 60.0
"""Seconds without a byte after which it has broken off."""
NOBODY = "nobody (no application default credentials)"
"""Who asks for what may be public."""


@dataclass(frozen=True)
class CloudStorage:
    """:param bucket: as in ``gs://bucket/name``.
    :param conn_id: an Airflow connection to Google Cloud; None: application default credentials, else nobody's.
    """

    bucket: str
    name: str
    conn_id: str | None

    async def fill(self, sink: Sink, known: str) -> str:
        """See :class:`~airflow_customjob.packaging.sources.Source`; a version is an object's generation."""
        return await asyncio.to_thread(self._fill, sink, known)

    def _fill(self, sink: Sink, known: str) -> str:
        from google.api_core.exceptions import GoogleAPICallError, RetryError
        from google.auth.exceptions import GoogleAuthError
        from google.cloud.storage.exceptions import DataCorruption
        from google.cloud.storage.retry import DEFAULT_RETRY
        from requests.exceptions import RequestException

        client, who = client_for(self.conn_id)
        retry = DEFAULT_RETRY.with_timeout(PATIENCE)
        try:
            blob = client.bucket(self.bucket).get_blob(self.name, timeout=STALL, retry=retry)
            if blob is None:
                raise PackageError("there is no such object: check the names of the bucket and the object")
            generation = str(blob.generation)
            if generation == known:
                raise Unchanged
            sink.expect(blob.size or 0)
            checked = _Checked(sink)
            blob.download_to_file(
                checked,
                raw_download=True,  # as it is stored, also where somebody called a .tar.gz an encoding
                if_generation_match=blob.generation,
                checksum=None,  # the library's own is not looked at where it has gone on
                timeout=STALL,
                retry=retry,
            )
        except GoogleAPICallError as error:
            raise PackageError(_refused(error.code, who), passing=(error.code or 500) >= 500) from None
        except (GoogleAuthError, RetryError, RequestException, DataCorruption) as error:
            raise PackageError(
                f"Cloud Storage did not give it ({type(error).__name__}) to {who}: check that it answers here",
                passing=True,
            ) from None
        if blob.crc32c and checked.crc32c != blob.crc32c:
            raise PackageError("it came damaged: its CRC32C is not the object's; try again")
        return generation


class _Checked:
    """A sink, with the checksum that Cloud Storage keeps of each object."""

    def __init__(self, sink: Sink) -> None:
        import google_crc32c

        sink.restart()
        self._sink = sink
        self._sum: Any = google_crc32c.Checksum()  # type: ignore[no-untyped-call] # it has no types

    @property
    def crc32c(self) -> str:
        return base64.b64encode(self._sum.digest()).decode()

    def write(self, data: bytes) -> int:
        self._sum.update(data)
        return self._sink.write(data)

    def flush(self) -> None:
        self._sink.flush()


def client_for(conn_id: str | None) -> tuple[Any, str]:
    """A client, and whose credentials it has, for people. ``STORAGE_EMULATOR_HOST`` counts, without credentials.

    :raises PackageError: the connection gives none.
    """
    import google.auth
    from google.auth.credentials import AnonymousCredentials
    from google.auth.exceptions import DefaultCredentialsError
    from google.cloud import storage

    if conn_id is not None:
        found, who = credentials_of(conn_id), f"the connection {conn_id}"
    else:
        found, who = None, NOBODY
    if found is None and not os.environ.get("STORAGE_EMULATOR_HOST"):
        try:
            found, _ = google.auth.default(scopes=[SCOPE])
            who = f"{getattr(found, 'service_account_email', '') or 'the application default credentials'}"
        except DefaultCredentialsError:
            pass
    anonymous = AnonymousCredentials()  # type: ignore[no-untyped-call] # it has no types
    return storage.Client(project="customjob", credentials=found or anonymous), who


def _refused(code: int | None, who: str) -> str:
    if code in (401, 403):
        return (
            f"Cloud Storage does not let {who} read it (HTTP {code}): grant it roles/storage.objectViewer on the bucket, or "
            "choose other credentials (gcp_conn_id, GOOGLE_APPLICATION_CREDENTIALS, gcloud auth application-default login)"
        )
    if code == 412:
        return "it was replaced while it was read: try again"
    return f"Cloud Storage answers HTTP {code}: check the names of the bucket and the object"
