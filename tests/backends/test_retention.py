"""What of the installations goes when gc looks at them."""

from __future__ import annotations

import pytest

from airflow_customjob.backends.base import ABOUT_TO_USE, Retention

DAY, NOW = 86400.0, 1e9
USED = {
    "today": NOW - 2 * ABOUT_TO_USE,
    "just now": NOW - 1.0,
    "last week": NOW - 7 * DAY,
    "last year": NOW - 365 * DAY,
}


@pytest.mark.parametrize(
    ("retention", "gone"),
    [
        pytest.param(Retention(30 * DAY, 50), ["last year"], id="beyond its time"),
        pytest.param(Retention(30 * DAY, 2), ["last week", "last year"], id="too many: the last used stay"),
        pytest.param(Retention(0.0, 50), ["today", "last week", "last year"], id="none is kept, but what a job may be about to use"),
        pytest.param(Retention(1e12, 0), ["today", "last week", "last year"], id="likewise"),
        pytest.param(Retention(1e12, 50), [], id="all are kept"),
    ],
)  # fmt: skip
def test_what_is_beyond_its_time_goes(retention: Retention, gone: list[str]) -> None:
    assert retention.beyond(USED, NOW) == gone
