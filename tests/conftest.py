"""Fixtures that several test modules use."""

import os
from pathlib import Path

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:
    # Of several processes each has one core; torch has not been imported yet.
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture
def data_folder():
    """The folder of photographs named by IRCDEBLUR_DATA; the test is skipped where there is none."""
    folder = os.environ.get("IRCDEBLUR_DATA", "")
    if not folder or not Path(folder).is_dir():
        pytest.skip("IRCDEBLUR_DATA does not name a folder of photographs")
    return Path(folder)
