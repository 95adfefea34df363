"""``python -m airflow_customjob.cli``."""

from __future__ import annotations

import sys

from airflow_customjob.cli import main

sys.exit(main())
