"""Requests to a Tiled server, with one clear error when it cannot be reached."""

from __future__ import annotations

import io
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.ipc

ARROW_FILE = "application/vnd.apache.arrow.file"
API_KEY_VARIABLE = "TILED_API_KEY"


class UnreachableError(ConnectionError):
    """The server does not answer, or refuses the key. One line: which, and what to do."""


@dataclass(frozen=True)
class TiledAddress:
    """Where a Tiled server is and with which key."""

    url: str
    api_key: str | None = None

    @classmethod
    def from_url(cls, url: str) -> TiledAddress:
        """A server named by its URL; the key comes from ``TILED_API_KEY``."""
        return cls(url.rstrip("/"), os.environ.get(API_KEY_VARIABLE))

    @classmethod
    def of_data_dir(cls, data_dir: Path) -> TiledAddress:
        """The server that works on a data folder now, as it wrote itself down there."""
        path = data_dir / "server.json"
        try:
            facts = json.loads(path.read_text())
            key = os.environ.get("TILED_SINGLE_USER_API_KEY")
            key = key or (data_dir / "tiled_api_key").read_text().strip()
        except FileNotFoundError:
            raise UnreachableError(
                f"no server is running on {data_dir}: start one with "
                f"`nucleate serve --data-dir {data_dir}`, or name one with --tiled URL"
            ) from None
        return cls(facts["url"], key)

    @property
    def websocket_url(self) -> str:
        return "ws" + self.url.removeprefix("http")


class TiledHttp:
    """Reads nodes of a Tiled server. Paths are keys joined by ``/``."""

    def __init__(self, address: TiledAddress, timeout_s: float = 30.0) -> None:
        self.address = address
        headers = {"Authorization": f"Apikey {address.api_key}"} if address.api_key else {}
        self._http = httpx.Client(
            base_url=address.url + "/api/v1", headers=headers, timeout=timeout_s, trust_env=False
        )

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> TiledHttp:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def get(self, path: str, **params: Any) -> httpx.Response | None:
        """A response, or None where the node does not exist.

        Raises
        ------
        UnreachableError
            No answer, a refused key, or an error of the server.
        """
        try:
            response = self._http.get(path, params=params)
        except httpx.HTTPError as error:
            raise UnreachableError(f"no answer from Tiled at {self.address.url}: {error}") from None
        if response.status_code == 404:
            return None
        if response.status_code in (401, 403):
            raise UnreachableError(
                f"Tiled at {self.address.url} refuses the API key: set {API_KEY_VARIABLE}"
            )
        if response.is_error:
            raise UnreachableError(
                f"Tiled at {self.address.url} answers {response.status_code} to {path}"
            )
        return response

    def metadata(self, path: str) -> dict[str, Any] | None:
        """Metadata of a node, or None where it does not exist."""
        response = self.get(f"/metadata/{quote(path)}")
        return None if response is None else response.json()["data"]["attributes"]["metadata"]

    def exists(self, path: str) -> bool:
        """Whether there is such a node."""
        return self.get(f"/metadata/{quote(path)}", fields="") is not None

    def table(self, path: str) -> pa.Table | None:
        """All rows of a table, or None where it does not exist."""
        response = self.get(f"/table/full/{quote(path)}", format=ARROW_FILE)
        if response is None:
            return None
        table = pyarrow.ipc.open_file(io.BytesIO(response.content)).read_all()
        # Tiled may pass the table through pandas, which leaves its index behind.
        return table.drop_columns([n for n in table.column_names if n.startswith("__index_")])

    def last_frame(self, path: str) -> int | None:
        """The ``frame`` of a table's last row; -1 when it is empty, None where it is missing."""
        frames = self.array(f"{path}/frame", "-1:", np.int64)
        if frames is None:
            return None
        return int(frames[0]) if frames.size else -1

    def array(self, path: str, slice_: str, dtype: Any) -> np.ndarray | None:
        """Values of a (part of a) 1-D array."""
        response = self.get(
            f"/array/full/{quote(path)}", slice=slice_, format="application/octet-stream"
        )
        return None if response is None else np.frombuffer(response.content, dtype)

    def children(self, path: str, limit: int = 100) -> list[tuple[str, dict[str, Any]]]:
        """Keys and metadata of a container's children, in order of creation."""
        found: list[tuple[str, dict[str, Any]]] = []
        while True:
            params = {"page[offset]": len(found), "page[limit]": limit}
            response = self.get(f"/search/{quote(path)}", **params)
            if response is None:
                return found
            page = response.json()["data"]
            found += [(item["id"], item["attributes"]["metadata"]) for item in page]
            if len(page) < limit:
                return found
