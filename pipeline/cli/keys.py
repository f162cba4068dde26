"""CURVE keys for sockets that other machines may reach."""

from __future__ import annotations

import os
from pathlib import Path

import zmq.auth

from pipeline.cli.session import SessionError

FILES = ("server.key", "server.key_secret", "client.key_secret", "clients/client.key")


def make_keys(folder: Path) -> bool:
    """Make a set of keys in the layout of ``bus.curve_keys``, unless there is one.

    Every process of an installation shares the set: those that bind prove that they are the
    server, those that connect are let in because ``clients/`` holds their public key.

    Parameters
    ----------
    folder
        Made if it is missing.

    Returns
    -------
    bool
        False if a complete set was there and nothing was changed.

    Raises
    ------
    SessionError
        If the folder holds a part of a set: which part is good cannot be known.
    """
    there = [name for name in FILES if (folder / name).exists()]
    if len(there) == len(FILES):
        return False
    if there:
        raise SessionError(
            f"{folder}: expected all or none of {', '.join(FILES)}, got {', '.join(there)}: "
            "complete the set from a copy, or remove it and make a new one"
        )
    clients = folder / "clients"
    clients.mkdir(parents=True, exist_ok=True)
    before = os.umask(0o077)
    try:
        zmq.auth.create_certificates(folder, "client")
        (folder / "client.key").rename(clients / "client.key")
        zmq.auth.create_certificates(folder, "server")
    finally:
        os.umask(before)
    return True
