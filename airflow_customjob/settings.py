"""The options of Airflow's section ``[customjob]``, read without Airflow where there is none."""

from __future__ import annotations

import os
import sys
import threading

from airflow_customjob.provider_info import OPTIONS

SECTION = "customjob"

ASKING = threading.Lock()
"""Held while a thread waits for Airflow's answer (a Variable, an XCom, a task's state): ``dag.test()`` answers from the same
process, and loses its way for good when two threads ask at once."""


def setting(option: str) -> str:
    """An option's value.

    Where Airflow is loaded its configuration counts; a command line that has no need of Airflow reads the environment
    variable that Airflow would (``AIRFLOW__CUSTOMJOB__DEFAULT_BACKEND``) and else takes the default.

    :raises KeyError: there is no such option.
    """
    default = str(OPTIONS[option]["default"])
    if "airflow.configuration" in sys.modules:
        from airflow.sdk.configuration import conf

        return str(conf.get(SECTION, option, fallback=default))
    return os.environ.get(f"AIRFLOW__{SECTION.upper()}__{option.upper()}", default)
