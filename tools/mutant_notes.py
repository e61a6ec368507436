"""A plugin of pytest in the processes of `mutate`: notes which test runs, which failed, and which mutant was imported.

In: the environment, which names the file for the notes and the broken module. Out: one JSON object a line. Random tests try the
same examples each time, keep none, and do not look for the smallest one: whether a mutant is noticed must not depend on luck.
"""

from __future__ import annotations

import json
import os
import sys

import pytest
from hypothesis import Phase, settings

from mutants import MARK

NOTES_VARIABLE, MODULE_VARIABLE = "NPCTL_MUTANT_NOTES", "NPCTL_MUTANT_MODULE"


def _note(**words: str) -> None:
    with open(os.environ[NOTES_VARIABLE], "a", encoding="utf-8") as file:
        file.write(json.dumps(words) + "\n")


def _note_mark() -> None:
    mark = getattr(sys.modules.get(os.environ[MODULE_VARIABLE]), MARK, "")
    if mark:
        _note(mark=mark)


def pytest_configure() -> None:
    # Before the test modules are imported, whose own settings are made from the profile that is loaded then.
    phases = (Phase.explicit, Phase.generate)
    settings.register_profile("mutants", settings(), derandomize=True, database=None, phases=phases, print_blob=False)
    settings.load_profile("mutants")


def pytest_collection_finish() -> None:
    _note_mark()


def pytest_runtest_logstart(nodeid: str) -> None:
    _note(running=nodeid)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.failed:
        _note(failed=report.nodeid)


def pytest_sessionfinish() -> None:
    _note_mark()
