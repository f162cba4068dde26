"""Shared fixtures."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import REPOSITORY, StoreProcess, start_store


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder of the real recordings; tests that need it skip where it is missing."""
    folder = Path(os.environ.get("NUCLEATE_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"real recordings are not at {folder}: set NUCLEATE_DATA to their folder")
    return folder


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoreProcess]:
    """One store for all tests that only add runs of their own to it."""
    running = start_store(tmp_path_factory.mktemp("store"))
    yield running
    if running.process.poll() is None:
        running.stop()
