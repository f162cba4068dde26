"""Makes the packed table of a geometry, on all cores, or fetches it from the disk's cache."""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import platformdirs

from pipeline.kernels.packed_table import (
    STRIPE_PIXELS,
    PackedTable,
    pack_stripe,
    pixel_reach,
    table_width,
)
from pipeline.reduce.binning import Binning

_log = logging.getLogger(__name__)

# Enters the names of cached tables: to be raised when a table's content changes.
_FORMAT = 2
# Tables of the largest detectors take 40 to 80 MB; the oldest go.
_MOST_CACHED = 20


def pack(
    corner: np.ndarray, chi_rad: np.ndarray, masked: np.ndarray, binning: Binning
) -> PackedTable:
    """The table of all stripes.

    Parameters
    ----------
    corner, chi_rad
        (rows + 1, columns + 1) float32, the bins' axis and the azimuth at the pixels' corners.
    masked
        (rows, columns) bool, True = never to be used.
    binning
        The bins.
    """
    low, width = binning.low, binning.width
    pixels, widths = pixel_reach(corner, masked, low, width, binning.bins)
    table_bins = table_width(widths)
    starts = range(0, masked.size, STRIPE_PIXELS)
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        parts = list(
            threads.map(
                lambda start: pack_stripe(
                    corner,
                    chi_rad,
                    masked,
                    low,
                    width,
                    pixels,
                    table_bins,
                    start,
                    min(start + STRIPE_PIXELS, masked.size),
                ),
                starts,
            )
        )
    place, share, segment_bin, length, padding, exact_place, exact_bin, exact_share = zip(
        *parts, strict=True
    )
    return PackedTable(
        place=np.concatenate(place),
        share=np.ascontiguousarray(np.concatenate(share, axis=1)),
        segment_bin=np.concatenate(segment_bin),
        segment_start=starts_of(np.concatenate(length)),
        segment_padding=np.concatenate(padding),
        stripe_segment=starts_of(np.array([len(part) for part in segment_bin])),
        exact_place=np.concatenate(exact_place),
        exact_bin=np.concatenate(exact_bin),
        exact_share=np.concatenate(exact_share),
        stripe_exact=starts_of(np.array([len(part) for part in exact_bin])),
    )


def starts_of(lengths: np.ndarray) -> np.ndarray:
    """Where each of the parts that follow each other begins, and where the last ends."""
    starts = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=starts[1:])
    return starts


def cache_folder() -> Path:
    """Where tables are kept: ``NUCLEATE_CACHE``, or what this system has for caches."""
    named = os.environ.get("NUCLEATE_CACHE")
    return (Path(named) if named else platformdirs.user_cache_path("nucleate")) / "tables"


def table_name(*content: bytes) -> str:
    """Name of the file for a table that depends on nothing but this content."""
    digest = hashlib.blake2b(str(_FORMAT).encode(), digest_size=20)
    for part in content:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest() + ".npz"


def load_table(
    name: str, more: tuple[str, ...]
) -> tuple[PackedTable, dict[str, np.ndarray]] | None:
    """A table of the cache and ``more`` that was kept with it; None if it is absent or damaged."""
    path = cache_folder() / name
    try:
        # Opened here: numpy leaves open what it cannot read.
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            table = PackedTable(*(file[field] for field in PackedTable._fields))
            arrays = {key: file[key] for key in more}
        # The least recently used go first.
        os.utime(path)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        _log.warning("%s: expected a cached table, got %s: it is made anew", path, error)
        return None
    return table, arrays


def keep_table(name: str, table: PackedTable, **more: np.ndarray) -> None:
    """Put a table into the cache; a folder that cannot be written to costs time, nothing else."""
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=folder, suffix=".part")
        with os.fdopen(descriptor, "wb") as file:
            np.savez(file, **table._asdict(), **more)  # pyright: ignore[reportArgumentType]
        os.replace(temporary, folder / name)
        kept = sorted(folder.glob("*.npz"), key=lambda path: path.stat().st_mtime)
        for path in kept[:-_MOST_CACHED]:
            path.unlink(missing_ok=True)
    except OSError as error:
        _log.warning("%s: table of the geometry not kept for the next start: %s", folder, error)
