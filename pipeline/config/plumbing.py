"""Sockets and the Tiled server."""

from pydantic import Field

from pipeline.config.base import Section


class Bus(Section):
    """How frames and results travel."""

    curve_keys: str | None = None
    """Folder with CURVE keys: ``server.key`` (public), ``server.key_secret`` where sockets bind,
    ``client.key_secret`` where they connect, ``clients/*.key`` (public) of those let in."""
    live_high_water_mark: int = Field(default=4, ge=1, le=1000)
    """Frames that a slow consumer may lag behind before it must ask for repair."""
    repair_credit: int = Field(default=4, ge=1, le=100)
    """Frames that a consumer may have under way from repair."""
    repair_timeout_s: float = Field(default=2.0, gt=0, le=60)
    """After this long without an answer a consumer asks again."""
    idle_ask_s: float = Field(default=0.25, gt=0, le=60)
    """After this long without a frame a consumer asks whether it missed the last ones."""
    link_window: int = Field(default=256, ge=1, le=10000)
    """Results that may be under way to the store; a stage waits when there are more."""


class Store(Section):
    """How results reach Tiled. Without URIs: SQLite, local files and memory in the data folder."""

    batch_period_s: float = Field(default=0.5, gt=0, le=10)
    """Results are made durable this often."""
    catalog_uri: str | None = None
    """Database of the catalog, e.g. ``postgresql+asyncpg://user:password@host/catalog``."""
    tables_uri: str | None = None
    """Database of the tables, e.g. ``postgresql://user:password@host/tables``."""
    stream_cache_uri: str | None = None
    """Where live messages are kept, e.g. ``redis://host:6379/0``."""
