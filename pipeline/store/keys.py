"""The data folder's own API key."""

from __future__ import annotations

import os
import secrets
from pathlib import Path


def api_key_for(data_dir: Path) -> str:
    """The data folder's own API key, made on first use and readable by its owner only.

    ``TILED_SINGLE_USER_API_KEY`` overrides it, as it does for Tiled itself.
    """
    if key := os.environ.get("TILED_SINGLE_USER_API_KEY"):
        return key
    path = data_dir / "tiled_api_key"
    data_dir.mkdir(parents=True, exist_ok=True)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return path.read_text().strip()
    with os.fdopen(descriptor, "w") as file:
        key = secrets.token_hex(16)
        file.write(key + "\n")
    return key
