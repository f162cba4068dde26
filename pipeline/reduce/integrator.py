"""One geometry, mask and binning, ready to integrate any number of frames."""

from __future__ import annotations

import os
import struct
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from pipeline.config.reduce import AreaReduction
from pipeline.kernels.bslz4_blocks import BLOCK_BYTES
from pipeline.kernels.bslz4_integration import integrate_bslz4, load_bslz4, plane_order
from pipeline.kernels.detector_geometry import grid_q_chi, rotation
from pipeline.kernels.integration import bin_sums, integrate
from pipeline.kernels.packed_table import PackedTable
from pipeline.messages import frozen_array
from pipeline.reduce.binning import Binning, chosen_range, usable_range
from pipeline.reduce.corrections import parallax_layer, static_weights
from pipeline.reduce.corrections.mask import unusable_pixels
from pipeline.reduce.errors import InputError
from pipeline.reduce.geometry import Geometry, check_shape, corner_grid_m
from pipeline.reduce.packing import keep_table, load_table, pack, table_name

# Counts from here on are not counts. Detectors mark gaps and dead pixels by the highest values of
# the type (EIGER: 2^32 - 1 and a few below, 65535 and 65534 with 16 bits), and -1, -2 become the
# same when read as unsigned. No pixel counts 2^31 photons in an exposure.
_ABSURD_FROM = {"u1": 255, "u2": 65534, "i1": 127, "i2": 32767}
_ABSURD_FROM_ELSE = 2**31 - 1

COUNTS_END = float(_ABSURD_FROM_ELSE)
"""Above all counts."""

# Rows of a detector that one thread places at a time.
_SLAB_ROWS = 256


class Corners:
    """Where the corners of a detector's pixels lie, seen from the sample.

    Parameters
    ----------
    geometry
        Of the detector.
    shape
        Rows and columns of a frame.
    settings
        Say whether a sensor's parallax is taken out.

    Attributes
    ----------
    q_per_nm, chi_rad
        (rows + 1, columns + 1) float32.
    """

    def __init__(self, geometry: Geometry, shape: tuple[int, int], settings: AreaReduction) -> None:
        position1_m, position2_m = corner_grid_m(geometry, shape)
        layer = parallax_layer(geometry, settings.sensor)
        turn = rotation(geometry.rot1_rad, geometry.rot2_rad, geometry.rot3_rad)

        def place(first_row: int) -> tuple[np.ndarray, np.ndarray]:
            rows = slice(first_row, first_row + _SLAB_ROWS)
            return grid_q_chi(
                position1_m[rows],
                position2_m[rows],
                geometry.distance_m,
                (geometry.poni1_m, geometry.poni2_m),
                turn,
                geometry.wavelength_nm,
                layer,
            )

        with ThreadPoolExecutor(os.cpu_count()) as threads:
            slabs = list(threads.map(place, range(0, shape[0] + 1, _SLAB_ROWS)))
        self.q_per_nm = np.concatenate([q for q, _ in slabs])
        self.chi_rad = np.concatenate([chi for _, chi in slabs])


class Integrator:
    """Frames to I(q) and sigma for one geometry and static mask.

    Threads may call one instance at the same time.

    Parameters
    ----------
    geometry
        Of the detector.
    shape
        Rows and columns of a frame.
    settings
        Bins, range of q and corrections; files that they name are not read here.
    masked
        (rows, columns) bool, True = never used; None = all are used.
    flat
        (rows, columns) sensitivity of each pixel, NaN = unusable; None = all alike.
    dark
        (rows, columns) counts without beam in the frames' exposure; None = none.
    cached
        Whether the table of shares is kept on disk for the next start.

    Attributes
    ----------
    binning
        The bins.
    q_per_nm
        (bins,) centres of the bins.
    pixels
        (bins,) how many pixels each bin has (sum of shares).
    masked
        (rows, columns) bool, pixels that are never used.
    weights
        (pixels,) what a count is divided by.

    Raises
    ------
    InputError
        If no pixel is usable, or none lies in the range of q.
    """

    def __init__(
        self,
        geometry: Geometry,
        shape: tuple[int, int],
        settings: AreaReduction,
        *,
        masked: np.ndarray | None = None,
        flat: np.ndarray | None = None,
        dark: np.ndarray | None = None,
        cached: bool = False,
    ) -> None:
        check_shape(geometry, shape)
        masked = unusable_pixels(shape, masked, flat, dark)
        if masked.all():
            raise InputError("pixel mask: expected some usable pixels, got none")
        self._shape = shape
        self.masked = masked
        self.binning, self._table = _prepared(geometry, shape, settings, masked, cached)
        self.q_per_nm = self.binning.centres_per_nm
        weights = static_weights(geometry, shape, settings, flat)
        self.weights = frozen_array(np.where(masked, 1.0, weights).ravel())
        bins = self.binning.bins
        norms = bin_sums(self._table, self.weights, bins)
        self.pixels = frozen_array(bin_sums(self._table, np.ones(masked.size), bins))
        darks, dark_sums = np.empty(0), np.zeros(bins)
        if dark is not None:
            darks = np.where(masked, 0.0, dark).ravel()
            dark_sums = bin_sums(self._table, darks, bins)
        self._constants = (self.weights, darks, norms, dark_sums)
        self._places: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        if not self.pixels.any():
            edges = self.binning.edges_per_nm
            raise InputError(
                f"q range: expected usable pixels in {edges[0]:g} to {edges[-1]:g} 1/nm, got 0"
            )

    def __call__(
        self, image: np.ndarray, saturation: float | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Integrate one frame.

        Parameters
        ----------
        image
            (rows, columns) of counts, any real type.
        saturation
            Pixels at or above are not used; None = only what no detector counts.

        Returns
        -------
        intensity, sigma
            (bins,) counts per pixel, divided by the pixel's weights, and its one-sigma error from
            counting statistics; NaN where no pixel is valid.
        """
        if image.shape != self._shape:
            raise InputError(f"expected a frame of {self._shape}, got {image.shape}")
        limit = np.float32(valid_below(image.dtype, saturation))
        return integrate(flat_counts(image), limit, self._table, *self._constants)

    def packed(
        self, payload: bytes, dtype: np.dtype, saturation: float | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Integrate one frame that is still compressed, about twice as fast as doing both in turn.

        Parameters
        ----------
        payload
            In bslz4 form, in blocks of 8192 bytes whose lengths were checked.
        dtype
            ``<u2`` or ``<u4``.
        saturation
            As for a call.

        Returns
        -------
        intensity, sigma
            As of a call, bit for bit.

        Raises
        ------
        InputError
            If a block cannot be decompressed.
        """
        item = dtype.itemsize
        if item not in self._places:
            self._places[item] = (
                plane_order(self._table.place, item),
                plane_order(self._table.exact_place, item),
            )
        damaged, intensity, sigma = integrate_bslz4(
            np.frombuffer(payload, np.uint8),
            self.masked.size,
            item,
            np.float32(valid_below(dtype, saturation)),
            self._table,
            *self._places[item],
            *self._constants,
        )
        _check_whole(damaged, self._shape, dtype)
        return intensity, sigma


def unpacked_counts(
    payload: bytes, shape: tuple[int, int], dtype: np.dtype, saturation: float | None = None
) -> np.ndarray:
    """Counts of a compressed frame, (pixels,) float32; invalid ones are above all counts.

    Parameters
    ----------
    payload, dtype, saturation
        As for `Integrator.packed`.
    shape
        Rows and columns.

    Raises
    ------
    InputError
        If a block cannot be decompressed.
    """
    counts = np.empty(shape[0] * shape[1], np.float32)
    limit = np.float32(valid_below(dtype, saturation))
    damaged = load_bslz4(np.frombuffer(payload, np.uint8), dtype.itemsize, limit, counts)
    _check_whole(damaged, shape, dtype)
    return counts


def packed_zeros(size_bytes: int) -> bytes:
    """A small image of zeros in bslz4 form, to compile with: one block of 15 to 269 literals."""
    block = bytes([15 << 4, size_bytes - 15]) + bytes(size_bytes)
    return struct.pack(">QII", size_bytes, BLOCK_BYTES, len(block)) + block


def _check_whole(damaged: int, shape: tuple[int, int], dtype: np.dtype) -> None:
    if damaged >= 0:
        raise InputError(
            f"expected bslz4 blocks that decompress to {shape} {dtype.str}, got damage in block "
            f"{damaged}"
        )


def flat_counts(image: np.ndarray) -> np.ndarray:
    """An image as the kernels take it: flat, in the machine's byte order, 32 bits signed.

    Marks of invalid pixels near 2^32 become negative, which is invalid too.
    """
    if not image.dtype.isnative:
        image = image.astype(image.dtype.newbyteorder("="))
    flat = np.ascontiguousarray(image).reshape(-1)
    return flat.view(np.int32) if flat.dtype == np.uint32 else flat


def valid_below(dtype: np.dtype, saturation: float | None = None) -> float:
    """Counts that a pixel must stay below to be valid."""
    absurd = float(_ABSURD_FROM.get(dtype.str[1:], _ABSURD_FROM_ELSE))
    return absurd if saturation is None else min(absurd, float(saturation))


def _prepared(
    geometry: Geometry,
    shape: tuple[int, int],
    settings: AreaReduction,
    masked: np.ndarray,
    cached: bool,
) -> tuple[Binning, PackedTable]:
    """Bins and table of shares, from the cache if they are there."""
    wanted = (settings.q_min_per_nm, settings.q_max_per_nm)
    name = ""
    if cached:
        corners_m = b"" if geometry.corners_m is None else geometry.corners_m.tobytes()
        layer = parallax_layer(geometry, settings.sensor)
        # repr of a float gives all its digits.
        kind = (shape, settings.bins, settings.bin_axis, settings.bin_spacing, wanted, layer)
        name = table_name(
            f"{geometry!r}{kind!r}".encode(), corners_m, np.packbits(masked).tobytes()
        )
        if (found := load_table(name, ("low_width",))) is not None:
            low, width = (float(value) for value in found[1]["low_width"])
            binning = Binning(
                settings.bins,
                settings.bin_axis,
                settings.bin_spacing,
                low,
                width,
                geometry.wavelength_nm,
            )
            return binning, found[0]
    corners = Corners(geometry, shape, settings)
    q_range = chosen_range(usable_range(corners.q_per_nm, masked), wanted)
    binning = Binning.between(
        q_range, settings.bins, settings.bin_axis, settings.bin_spacing, geometry.wavelength_nm
    )
    table = pack(binning.corners(corners.q_per_nm), corners.chi_rad, masked, binning)
    if cached:
        keep_table(name, table, low_width=np.array([binning.low, binning.width]))
    return binning, table
