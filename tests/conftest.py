"""Fixtures that several test modules use."""

import os
from pathlib import Path

import pytest


@pytest.fixture
def data_folder():
    """The folder of photographs named by IRCDEBLUR_DATA; the test is skipped where there is none."""
    folder = os.environ.get("IRCDEBLUR_DATA", "")
    if not folder or not Path(folder).is_dir():
        pytest.skip("IRCDEBLUR_DATA does not name a folder of photographs")
    return Path(folder)
