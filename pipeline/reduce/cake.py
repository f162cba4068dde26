"""Stage: some frames of an area detector to a map of intensity over q and azimuth, the cake."""

from __future__ import annotations

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar

import numpy as np

from pipeline.config.reduce import AreaReduction
from pipeline.config.reduce import Cake as CakeSettings
from pipeline.kernels.cake import LANES, CakeTable, cell_sums, map_frame, reciprocals
from pipeline.kernels.cake_splitting import split_stripe
from pipeline.kernels.packed_table import STRIPE_PIXELS
from pipeline.messages import (
    BadFrameError,
    Cake,
    ImageFrame,
    PackedImageFrame,
    Result,
    RunStart,
    WaxsCake,
    frozen_array,
)
from pipeline.reduce.binning import Binning, chosen_range, usable_range
from pipeline.reduce.corrections import static_weights
from pipeline.reduce.corrections.mask import unusable_pixels
from pipeline.reduce.corrections.normalisation import Normalisation
from pipeline.reduce.errors import InputError
from pipeline.reduce.geometry import Geometry
from pipeline.reduce.inputs import AreaInputs, in_sectors, read_inputs, require_valid
from pipeline.reduce.integrator import (
    Corners,
    flat_counts,
    packed_zeros,
    unpacked_counts,
    valid_below,
)
from pipeline.reduce.packing import starts_of

# The store takes messages of 128 MiB at most, and a cake has three numbers of 4 bytes a cell.
_MOST_CELLS = 10_000_000


class CakeIntegrator:
    """Frames to intensity and sigma over q and azimuth, for one geometry and static mask.

    Threads may call one instance at the same time.

    Parameters
    ----------
    geometry
        Of the detector.
    shape
        Rows and columns of a frame.
    settings
        Range and spacing of q and corrections; files that they name are not read here. The azimuths
        of ``sectors_deg`` count for the range of q only, which is that of the curve.
    cake
        Number of cells.
    masked
        (rows, columns) bool, True = never used; None = all are used.
    flat
        (rows, columns) sensitivity of each pixel, NaN = unusable; None = all alike.
    dark
        (rows, columns) counts without beam in the frames' exposure; None = none.
    level
        Whether pixels are split as pyFAI does it, for comparison: less exactly, see
        `pipeline.kernels.cake_splitting`.

    Attributes
    ----------
    binning
        Along q.
    q_per_nm
        (bins,) centres of cells.
    azimuth_deg
        (sectors,) centres of cells, -180 to 180: 0 is along axis 2, 90 along axis 1.
    weight
        (sectors, bins) sum of the pixels' weights times shares: what a cell counts for in a mean.

    Raises
    ------
    InputError
        If no pixel is usable, none lies in the range of q, or there are too many cells.
    """

    def __init__(
        self,
        geometry: Geometry,
        shape: tuple[int, int],
        settings: AreaReduction,
        cake: CakeSettings,
        *,
        masked: np.ndarray | None = None,
        flat: np.ndarray | None = None,
        dark: np.ndarray | None = None,
        level: bool = False,
    ) -> None:
        cells = cake.q_bins * cake.azimuth_bins
        if cells > _MOST_CELLS:
            raise InputError(
                f"cake: expected q_bins times azimuth_bins up to {_MOST_CELLS}, got {cake.q_bins} "
                f"times {cake.azimuth_bins}"
            )
        masked = unusable_pixels(shape, masked, flat, dark)
        on_curve = masked
        if settings.sectors_deg:
            on_curve = masked | ~in_sectors(geometry, shape, settings.sectors_deg)
        if on_curve.all():
            raise InputError("pixel mask: expected some usable pixels, got none")
        corners = Corners(geometry, shape, settings)
        wanted = (settings.q_min_per_nm, settings.q_max_per_nm)
        q_range = chosen_range(usable_range(corners.q_per_nm, on_curve), wanted)
        self.binning = Binning.between(
            q_range, cake.q_bins, settings.bin_axis, settings.bin_spacing, geometry.wavelength_nm
        )
        self.q_per_nm = self.binning.centres_per_nm
        sectors = np.arange(cake.azimuth_bins)
        self.azimuth_deg = frozen_array((sectors + 0.5) * (360.0 / cake.azimuth_bins) - 180.0)
        self._frame_shape = shape
        self._shape = (cake.azimuth_bins, cake.q_bins)
        self._table = pack_cake(
            self.binning.corners(corners.q_per_nm),
            corners.chi_rad,
            masked,
            self.binning,
            cake.azimuth_bins,
            level,
        )
        weights = static_weights(geometry, shape, settings, flat)
        self._weights = np.where(masked, 1.0, weights).ravel()
        self._norms = cell_sums(self._table, self._weights, cells)
        self._per_norm = reciprocals(self._norms)
        self.weight = frozen_array(self._norms.reshape(self._shape))
        self._darks, self._dark_sums = np.empty(0), np.empty(0)
        if dark is not None:
            self._darks = np.where(masked, 0.0, dark).ravel()
            self._dark_sums = cell_sums(self._table, self._darks, cells)

    def __call__(
        self, image: np.ndarray, saturation: float | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Map one frame.

        Parameters
        ----------
        image
            (rows, columns) of counts, any real type.
        saturation
            Pixels at or above are not used; None = only what no detector counts.

        Returns
        -------
        intensity, sigma
            (sectors, bins) float32, counts per pixel, divided by the pixel's weights, and its
            one-sigma error from counting statistics; NaN where no pixel is valid.
        """
        if image.shape != self._frame_shape:
            raise InputError(f"expected a frame of {self._frame_shape}, got {image.shape}")
        intensity, sigma = map_frame(
            flat_counts(image),
            np.float32(valid_below(image.dtype, saturation)),
            self._table,
            self._weights,
            self._darks,
            self._norms,
            self._dark_sums,
            self._per_norm,
        )
        return intensity.reshape(self._shape), sigma.reshape(self._shape)


def pack_cake(
    corner: np.ndarray,
    chi_rad: np.ndarray,
    masked: np.ndarray,
    binning: Binning,
    sectors: int,
    level: bool = False,
) -> CakeTable:
    """The table of all stripes, made on all cores.

    Parameters
    ----------
    corner, chi_rad
        (rows + 1, columns + 1) float32, the bins' axis and the azimuth at the pixels' corners.
    masked
        (rows, columns) bool, True = never to be used.
    binning
        Along q.
    sectors
        Number of cells around the beam.
    level
        As for `CakeIntegrator`.
    """

    def pack_stripe(start: int) -> tuple[np.ndarray, ...]:
        stop = min(start + STRIPE_PIXELS, masked.size)
        return _by_cell(
            *split_stripe(
                corner,
                chi_rad,
                masked,
                binning.low,
                binning.width,
                binning.bins,
                sectors,
                level,
                start,
                stop,
            )
        )

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        parts = list(threads.map(pack_stripe, range(0, masked.size, STRIPE_PIXELS)))
    offset, share, cell, length = zip(*parts, strict=True)
    return CakeTable(
        offset=np.concatenate(offset),
        share=np.concatenate(share),
        segment_cell=np.concatenate(cell),
        segment_start=starts_of(np.concatenate(length)),
        stripe_segment=starts_of(np.array([len(part) for part in cell])),
    )


def _by_cell(
    offset: np.ndarray, cell: np.ndarray, share: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Entries of a stripe sorted by cell and filled up; cell and length of each segment."""
    order = np.argsort(cell, kind="stable")
    cells, first, count = np.unique(cell[order], return_index=True, return_counts=True)
    length = -(-count // LANES) * LANES
    starts = starts_of(length)
    place = np.repeat(starts[:-1] - first, count) + np.arange(len(order))
    packed_offset = np.full(starts[-1], STRIPE_PIXELS, np.uint16)
    packed_share = np.zeros(starts[-1], np.float32)
    packed_offset[place] = offset[order]
    packed_share[place] = share[order]
    return packed_offset, packed_share, cells, length


class ReduceCake:
    """The map over q and azimuth of every n-th frame, in the units of the frame's curve.

    Normalised as the curve is, with sigma from counting statistics. A background, which is a curve,
    is not subtracted; ``sectors_deg``, rejection and dead time, which say what a ring's mean is
    made of, do not count here.

    Parameters
    ----------
    settings
        Section ``saxs.reduce`` or ``waxs.reduce`` of a config, with ``cake``.

    Raises
    ------
    InputError
        If the settings ask for no cake.
    """

    name: ClassVar[str] = "reduce_cake"
    cake: ClassVar[type[Cake]] = Cake
    consumes: ClassVar[tuple[type, ...]] = (PackedImageFrame, ImageFrame)
    produces: ClassVar[tuple[type[Result], ...]] = (Cake,)

    def __init__(self, settings: AreaReduction) -> None:
        if settings.cake is None:
            raise InputError("cake: expected q_bins, azimuth_bins, every; got nothing")
        self.settings = settings
        self._cake = settings.cake
        self._inputs: AreaInputs | None = None
        self._map: CakeIntegrator | None = None
        self._weight = np.empty(0)
        self._normalisation = Normalisation(settings, {})

    def warm_up(self) -> None:
        """Compile every kernel of this stage, or load it from the disk's cache."""
        geometry = Geometry(1.0, 4e-3, 4e-3, 0.1, 1e-3, 1e-3, shape=(8, 8))
        cake = CakeSettings(q_bins=4, azimuth_bins=4)
        integrator = CakeIntegrator(geometry, (8, 8), AreaReduction(), cake)
        for dtype in (np.uint16, np.uint32, np.float32):
            integrator(np.ones((8, 8), dtype))
        unpacked_counts(packed_zeros(128), (8, 8), np.dtype("<u2"))

    def reset(self, start: RunStart, /) -> None:
        """Prepare for a stream: geometry, mask, table of shares; compiles what is needed.

        Raises
        ------
        InputError
            If it is a stream of something else than images, or geometry, mask or q cannot be used.
        """
        stream = start.stream
        if stream.kind != "image":
            raise InputError(
                f"{stream.stream}: reduce.cake: expected a stream of images, got {stream.kind}: "
                "leave it out"
            )
        # A cake goes all round, whatever part of it the curve is made of.
        inputs = read_inputs(self.settings.model_copy(update={"sectors_deg": ()}), stream)
        self._map = CakeIntegrator(
            inputs.geometry,
            inputs.shape,
            self.settings,
            self._cake,
            masked=inputs.masked,
            flat=inputs.flat,
            dark=inputs.dark,
        )
        self._weight = frozen_array(self._map.weight, np.float32)
        self._normalisation = Normalisation(self.settings, stream.metadata)
        self._inputs = inputs
        # Compiled for this type of pixel now, not while frames come in.
        for dtype in (inputs.dtype, np.float32):
            self._map(np.zeros(inputs.shape, dtype), inputs.saturation)

    def process(self, message: ImageFrame | PackedImageFrame, /) -> Iterable[Cake]:
        """The cake of one frame, if it is its turn.

        Raises
        ------
        BadFrameError
            If there was no beam, or the frame does not fit its stream.
        """
        if self._map is None or self._inputs is None:
            raise RuntimeError(f"{self.name}: reset comes before the first frame")
        if message.frame % self._cake.every:
            return
        where = f"{message.stream} frame {message.frame}"
        packed = isinstance(message, PackedImageFrame)
        self._inputs.check(message)
        factor = np.float32(self._normalisation.factor(message))
        image = self._unpack(message, where) if packed else message.image
        intensity, sigma = self._map(image, self._inputs.saturation)
        require_valid(intensity, where)
        yield self.cake(
            frame=message.frame,
            time_s=message.time_s,
            every=self._cake.every,
            azimuth_deg=self._map.azimuth_deg,
            q_per_nm=self._map.q_per_nm,
            intensity=frozen_array(intensity * factor),
            sigma=frozen_array(sigma * factor),
            weight=self._weight,
            absolute=self._normalisation.absolute,
        )

    def _unpack(self, frame: PackedImageFrame, where: str) -> np.ndarray:
        """Counts (rows, columns) float32 of a compressed frame."""
        assert self._inputs is not None
        dtype = np.dtype(frame.dtype)
        try:
            counts = unpacked_counts(frame.payload, frame.shape, dtype, self._inputs.saturation)
        except InputError as error:
            raise BadFrameError(f"{where}: {error}") from error
        return counts.reshape(frame.shape)


class ReduceWaxsCake(ReduceCake):
    """Cakes of the wide-angle detector, see `ReduceCake`."""

    name: ClassVar[str] = "reduce_waxs_cake"
    cake: ClassVar[type[Cake]] = WaxsCake
    produces: ClassVar[tuple[type[Result], ...]] = (WaxsCake,)
