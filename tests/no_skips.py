"""A pytest plugin: where every server is there, a skipped test is a failed one.

With ``NETSTORAGE_CI=1`` in the environment each skip must be expected, or it fails the run. A
skip is expected when its reason matches a pattern of ``EXPECTED``, or one of the patterns in
``NETSTORAGE_EXPECTED_SKIPS`` (separated by ``;``), for a machine that has no Docker, say.
Without ``NETSTORAGE_CI`` the plugin does nothing.
"""

from __future__ import annotations

import os
import re
from collections.abc import Generator

import pytest

EXPECTED = (
    # One test, several Pythons and Djangos: the matrix runs it where it applies.
    r"needs (Python|Django) (<|<=|>=|>) ?\d+\.\d+",
)


def expected(reason: str) -> bool:
    """Whether a test may be skipped for this reason."""
    more = os.environ.get("NETSTORAGE_EXPECTED_SKIPS", "").split(";")
    return any(re.search(pattern, reason) for pattern in (*EXPECTED, *filter(None, more)))


def refuse(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Make a report of an unexpected skip one of a failure."""
    if os.environ.get("NETSTORAGE_CI", "") in {"", "0"} or not report.skipped:
        return
    if hasattr(report, "wasxfail"):  # an expected failure is reported as skipped, too
        return
    path, line, reason = report.longrepr
    reason = reason.removeprefix("Skipped: ")
    if not expected(reason):
        report.outcome = "failed"
        report.longrepr = f"{path}:{line}: unexpected skip: {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    refuse(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    refuse(report)
    return report
