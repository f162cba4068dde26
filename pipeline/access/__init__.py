"""How anything here reads a Tiled server: over HTTP and WebSocket, as any user could."""

from pipeline.access.alerts import AlertFollower
from pipeline.access.follow import RowsFollower
from pipeline.access.tiled_http import TiledAddress, TiledHttp, UnreachableError

__all__ = ["AlertFollower", "RowsFollower", "TiledAddress", "TiledHttp", "UnreachableError"]
