"""Python packages: fetched and hashed here, installed only where the job runs.

Nothing in this package runs pip or any code of a package. It gives the bytes, the key by which an installation is
cached, and the commands that install as Vertex AI does; the engines run those inside what they isolate.
"""

from airflow_customjob.packaging.archives import requires_nothing
from airflow_customjob.packaging.fetch import fetch
from airflow_customjob.packaging.install import install_commands
from airflow_customjob.packaging.package import Fetched, PackageError
from airflow_customjob.packaging.recipe import RECIPE, content_key, dockerfile
from airflow_customjob.packaging.store import packages_folder

__all__ = [
    "RECIPE",
    "Fetched",
    "PackageError",
    "content_key",
    "dockerfile",
    "fetch",
    "install_commands",
    "packages_folder",
    "requires_nothing",
]
