"""A Tiled server inside this process: SQLite catalog, SQLite tables, local files, memory stream.

The same class serves PostgreSQL and Redis where a config names them: what differs is three URIs.
A run's config is stored with the run, so a URI says ``${NAME}`` where a password stands, and the
password comes from the environment.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import socket
import threading
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit

import uvicorn

from pipeline.config.plumbing import Store
from pipeline.store.keys import api_key_for

T = TypeVar("T")
log = logging.getLogger(__name__)

# A subscriber that was away for a moment finds its messages again: about 2 minutes at 2 Hz and
# 6.7 Hz with five live nodes. What is older, it reads from the tables.
STREAM_CACHE_MESSAGES = 5000
STARTUP_TIMEOUT_S = 120.0


class ServerError(RuntimeError):
    """The embedded server cannot start; the text says why and what to do."""


def with_secrets(uri: str) -> str:
    """A URI with each ``${NAME}`` in it replaced by that environment variable, quoted for a URI.

    Raises
    ------
    ServerError
        If the variable is not set.
    """

    def value(match: re.Match[str]) -> str:
        name = match[1]
        if name not in os.environ:
            raise ServerError(f"{uri}: the environment has no {name}: set it to the password")
        return quote(os.environ[name], safe="")

    return re.sub(r"\$\{(\w+)\}", value, uri)


def without_password(uri: str) -> str:
    """A URI as it may be shown."""
    parts = urlsplit(uri)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _prepare_catalog(uri: str) -> None:
    """Create the catalog's tables if the database is new, in this process.

    ``tiled catalog init`` does the same in a second interpreter, whose imports would double the
    time to start, and whose command line shows the password.

    Raises
    ------
    ServerError
        If the database does not answer, refuses us or is another version's.
    """
    from sqlalchemy.exc import SQLAlchemyError
    from sqlalchemy.ext.asyncio import create_async_engine
    from tiled.alembic_utils import (
        DatabaseUpgradeNeeded,
        UninitializedDatabase,
        check_database,
        stamp_head,
    )
    from tiled.catalog.alembic_constants import ALEMBIC_DIR, ALEMBIC_INI_TEMPLATE_PATH
    from tiled.catalog.core import ALL_REVISIONS, REQUIRED_REVISION, initialize_database

    async def create_if_new() -> bool:
        engine = create_async_engine(uri)
        try:
            await check_database(engine, REQUIRED_REVISION, ALL_REVISIONS)
        except UninitializedDatabase:
            await initialize_database(engine)
            return True
        finally:
            await engine.dispose()
        return False

    errors: tuple[type[Exception], ...] = (OSError, SQLAlchemyError, DatabaseUpgradeNeeded)
    if uri.startswith("postgresql"):
        import asyncpg

        # A wrong password or a missing database reaches us as the driver's own error.
        errors += (asyncpg.PostgresError,)
    try:
        if asyncio.run(create_if_new()):
            stamp_head(Path(ALEMBIC_INI_TEMPLATE_PATH), Path(ALEMBIC_DIR), uri)
    except errors as error:
        reason = " ".join(str(error).split())
        raise ServerError(f"catalog at {without_password(uri)}: {reason}") from error


class EmbeddedServer:
    """Tiled over HTTP and WebSocket, on a thread with an event loop of its own.

    Parameters
    ----------
    data_dir
        Holds ``catalog.db``, ``tables.db``, ``arrays/`` and the API key.
    host, port
        Where to listen; port 0 takes a free one.
    settings
        May name a PostgreSQL catalog, PostgreSQL tables and a Redis stream cache.
    readable
        Folders whose files may be registered (recordings).
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        settings: Store | None = None,
        readable: tuple[Path, ...] = (),
    ) -> None:
        self.data_dir = data_dir.resolve()
        self.host = host
        self.settings = settings or Store()
        self.readable = readable
        self.api_key = api_key_for(self.data_dir)
        try:
            self._socket = socket.create_server((host, port), reuse_port=False)
        except OSError as error:
            raise ServerError(
                f"cannot listen on {host}:{port}: {error.strerror}; choose another --port"
            ) from error
        self.port: int = self._socket.getsockname()[1]
        self.url = f"http://{host}:{self.port}"
        self.catalog: Any = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None

    def start(self) -> None:
        """Build the application and serve it; returns when the first request can be answered."""
        app = self._build()
        config = uvicorn.Config(app, log_level="warning", loop="asyncio", access_log=False)
        self._server = uvicorn.Server(config)
        ready = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(ready,), name="tiled", daemon=True)
        self._thread.start()
        if not ready.wait(STARTUP_TIMEOUT_S) or self._failure is not None:
            raise ServerError(f"Tiled did not start in {self.data_dir}: {self._failure}")

    def _build(self) -> Any:
        from tiled.catalog import from_uri
        from tiled.config import Authentication, StreamingCacheConfig
        from tiled.server.app import build_app

        from pipeline.store.export import serialization_registry
        from pipeline.store.fastapi_memo import remember_dependants

        # It tells the catalog's URI with the password in it.
        logging.getLogger("tiled.graph.router").setLevel(logging.WARNING)
        arrays = self.data_dir / "arrays"
        arrays.mkdir(parents=True, exist_ok=True)
        catalog_file = self.data_dir / "catalog.db"
        tables_file = self.data_dir / "tables.db"
        catalog_uri = with_secrets(
            self.settings.catalog_uri or f"sqlite+aiosqlite:///{catalog_file}"
        )
        tables_uri = with_secrets(self.settings.tables_uri or f"sqlite:///{tables_file}")
        cache_uri = with_secrets(self.settings.stream_cache_uri or "memory")
        if self.settings.catalog_uri is not None or not catalog_file.exists():
            _prepare_catalog(catalog_uri)
        # Two connections on one SQLite file fail each other's appends as locked.
        pool: dict[str, Any] = (
            {"storage_pool_size": 1, "storage_max_overflow": 0}
            if self.settings.tables_uri is None
            else {}
        )
        cache = StreamingCacheConfig(uri=cache_uri).model_dump()
        cache["maxsize"] = STREAM_CACHE_MESSAGES
        self.catalog = from_uri(
            catalog_uri,
            writable_storage=[arrays, tables_uri],
            readable_storage=[*map(str, self.readable)],
            cache_config=cache,
            **pool,
        )
        app = build_app(
            self.catalog,
            authentication=Authentication(single_user_api_key=self.api_key),
            serialization_registry=serialization_registry(),
        )
        remember_dependants()
        return app

    def _run(self, ready: threading.Event) -> None:
        assert self._server is not None
        server = self._server

        async def serve() -> None:
            self._loop = asyncio.get_running_loop()
            task = asyncio.ensure_future(server.serve(sockets=[self._socket]))
            while not server.started and not task.done():
                await asyncio.sleep(0.02)
            ready.set()
            await task

        try:
            asyncio.run(serve())
        except (Exception, SystemExit) as error:  # noqa: BLE001  told by start(), on its thread
            self._failure = error
        finally:
            ready.set()

    def submit(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the server's loop and wait for its result."""
        assert self._loop is not None, "the server has not been started"
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(timeout=60)

    def stop(self) -> None:
        """Stop serving and close the databases."""
        if self._server is not None and self._thread is not None:
            self._server.should_exit = True
            self._thread.join(timeout=10)
            if self._thread.is_alive():
                # Open WebSockets may hold a graceful stop up; what is stored is committed.
                self._server.force_exit = True
                self._thread.join(timeout=5)
        self._socket.close()
