"""Sockets that are closed to strangers: loopback, or CURVE keys.

Nothing here is opened on import. Every part of the bus owns one `Sockets`.
"""

from __future__ import annotations

import ipaddress
import logging
import socket as net
from pathlib import Path
from typing import Any

import zmq
import zmq.auth
from zmq.auth.thread import ThreadAuthenticator

from pipeline.bus.bslz4 import MAX_ARRAY_BYTES
from pipeline.config.plumbing import Bus

MAX_FRAME_MESSAGE_BYTES = MAX_ARRAY_BYTES + (1 << 20)
"""A frame and its header. libzmq drops the connection of a peer that announces more."""
SILENCE_S = 5.0
"""After this long without an answer, connect anew. libzmq comes back by itself after a lost
connection, but never again to an address where once somebody broke its protocol."""
MAX_REQUEST_BYTES = 1 << 12
"""A request for repair is some 30 B."""


class Sockets:
    """Makes sockets, all alike safe, and closes them together.

    Parameters
    ----------
    bus
        Keys, if any.
    """

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._keys = Path(bus.curve_keys) if bus.curve_keys else None
        self._context: zmq.Context[Any] = zmq.Context()
        self._authenticator: ThreadAuthenticator | None = None
        self._sockets: list[zmq.Socket[bytes]] = []

    def bind(self, kind: int, endpoint: str, **options: int) -> zmq.Socket[bytes]:
        """A bound socket; ``options`` are libzmq's, by name.

        Raises
        ------
        ValueError
            If others than this machine could reach it and there are no keys, or a key is missing.
        zmq.ZMQError
            If the address is taken.
        """
        check_endpoint(endpoint, secured=self._keys is not None)
        socket = self._socket(kind, options)
        try:
            if self._keys is not None:
                self._require_clients(self._keys)
                socket.curve_publickey, socket.curve_secretkey = _load_pair(
                    self._keys / "server.key_secret"
                )
                socket.curve_server = True
            socket.bind(_numeric(endpoint))
        except zmq.ZMQError as error:
            raise zmq.ZMQError(error.errno, f"cannot bind {endpoint}: {error.strerror}") from error
        return socket

    def connect(self, kind: int, endpoint: str, **options: int) -> zmq.Socket[bytes]:
        """A connected socket. The peer need not be there yet."""
        socket = self._socket(kind, options)
        if self._keys is not None:
            socket.curve_publickey, socket.curve_secretkey = _load_pair(
                self._keys / "client.key_secret"
            )
            socket.curve_serverkey = _load_public(self._keys / "server.key")
        socket.connect(endpoint)
        return socket

    def drop(self, socket: zmq.Socket[bytes]) -> None:
        """Close one socket, and what it has not sent."""
        self._sockets.remove(socket)
        socket.close(0)

    def pair(self, name: str) -> tuple[zmq.Socket[bytes], zmq.Socket[bytes]]:
        """Two ends of a wire between two threads of this process."""
        near, far = self._socket(zmq.PAIR, {}), self._socket(zmq.PAIR, {})
        near.bind(f"inproc://{name}")
        far.connect(f"inproc://{name}")
        return near, far

    def _socket(self, kind: int, options: dict[str, int]) -> zmq.Socket[bytes]:
        socket: zmq.Socket[bytes] = self._context.socket(kind)
        self._sockets.append(socket)
        socket.linger = 0
        socket.maxmsgsize = MAX_FRAME_MESSAGE_BYTES
        # A peer whose machine died is let go, so that it can come back; one that hangs is noticed
        # by whoever waits for its answer. By TCP: libzmq's own heartbeat aborts the process
        # (4.3.5, out_event) if a peer goes while its messages wait behind a full high-water mark.
        socket.tcp_keepalive, socket.tcp_keepalive_idle = 1, 5
        socket.tcp_keepalive_intvl, socket.tcp_keepalive_cnt = 5, 2
        # libzmq's default backs off to 30 s; a restarted publisher is back within a second.
        socket.reconnect_ivl, socket.reconnect_ivl_max = 50, 500
        for name, value in options.items():
            setattr(socket, name, value)
        return socket

    def _require_clients(self, keys: Path) -> None:
        """Let in only clients whose public key lies in the folder (ZAP, one per context)."""
        if self._authenticator is not None:
            return
        clients = keys / "clients"
        if not any(clients.glob("*.key")):
            raise ValueError(f"expected public keys of clients in {clients}, got none")
        quiet = logging.getLogger("pipeline.bus.curve")
        authenticator = ThreadAuthenticator(self._context, log=quiet)
        authenticator.start()
        authenticator.configure_curve(domain="*", location=str(clients))
        self._authenticator = authenticator

    def close(self) -> None:
        """Close all sockets, without waiting for what is still to be sent."""
        for socket in self._sockets:
            socket.close(0)
        if self._authenticator is not None:
            self._authenticator.stop()
            self._authenticator = None
        self._context.term()


def check_endpoint(endpoint: str, *, secured: bool) -> None:
    """That a socket may bind there: on loopback, or anywhere if it is secured by keys."""
    scheme, _, rest = endpoint.partition("://")
    if scheme in ("inproc", "ipc"):
        return
    if scheme != "tcp":
        raise ValueError(f"expected tcp://host:port, ipc:// or inproc://, got {endpoint!r}")
    host = rest.rpartition(":")[0].strip("[]")
    if not secured and not _is_loopback(host):
        raise ValueError(
            f"{endpoint} can be reached from other machines: bind to 127.0.0.1, "
            "or set bus.curve_keys to a folder with CURVE keys"
        )


def _numeric(endpoint: str) -> str:
    """The endpoint with this machine's address instead of its name.

    libzmq connects to names but binds to addresses only; so one wiring serves both ends.
    """
    scheme, _, rest = endpoint.partition("://")
    name, _, port = rest.rpartition(":")
    if scheme != "tcp" or name == "*":
        return endpoint
    try:
        address = net.gethostbyname(name)
    except OSError:  # an interface's name, or nonsense: libzmq knows
        return endpoint
    return f"{scheme}://{address}:{port}"


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name, an interface or *: nobody knows who reaches it
        return False


def _load_public(path: Path) -> bytes:
    return _load(path)[0]


def _load_pair(path: Path) -> tuple[bytes, bytes]:
    public, secret = _load(path)
    if secret is None:
        raise ValueError(f"{path}: expected a secret key, got a public one")
    return public, secret


def _load(path: Path) -> tuple[bytes, bytes | None]:
    try:
        return zmq.auth.load_certificate(path)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: expected a CURVE key, {error}") from error
