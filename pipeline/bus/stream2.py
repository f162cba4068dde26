"""Images as DECTRIS Stream V2: one CBOR map per message, ``type`` start, image or end.

What the protocol has a field for stands in that field, so that an EIGER2 or a PILATUS4 can feed
us and DECTRIS' tools can read us. The rest is in ``user_data``, under our name in the start. A
value that is its default is left out.

Source: DECTRIS, Stream V2 interface (SIMPLON API 1.8); RFC 8746 for arrays.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import cbor2
import numpy as np

from pipeline.bus import bslz4, cbor
from pipeline.bus.errors import WireError
from pipeline.bus.facts import MAX_INT64, FrameFacts, build_frame
from pipeline.bus.poni import parse_poni
from pipeline.messages import ImageFrame, PackedImageFrame, StreamEnd, StreamStart

_OURS = "nucleate"
_NS = 10**9
_EV_ANGSTROM = 12398.4198
"""hc in eV A (CODATA 2018), energy from wavelength."""
_IMAGE_TYPES = {"|u1": "uint8", "<u2": "uint16", "<u4": "uint32", "<u8": "uint64"}
_MASK = np.dtype("<u4")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Series:
    """How a detector names a series and counts its time.

    ``clock_hz`` is the denominator of its times: 1e9 for ours, 5e7 for an EIGER2.
    """

    number: int
    unique_id: str
    channel: str = "threshold_1"
    date: datetime = _EPOCH
    clock_hz: int = _NS


def series_of(start: StreamStart) -> Series:
    """Names of the series: those that came with the start, or made from the run."""
    known = start.metadata.get("series")
    if isinstance(known, Mapping):
        return Series(int(known["number"]), start.run, str(known["channel"]))
    return Series(zlib.crc32(start.run.encode()), start.run)


# Encoding


def encode_start(start: StreamStart) -> bytes:
    """Start message of an image stream."""
    rows, columns = _image_shape(start.shape)
    series = series_of(start)
    metadata = dict(start.metadata)
    message: dict[str, Any] = {
        "type": "start",
        "series_id": series.number,
        "series_unique_id": series.unique_id,
        "channels": [series.channel],
        "image_dtype": _image_type(start.dtype),
        "image_size_x": columns,
        "image_size_y": rows,
    }
    message |= _geometry_fields(str(metadata.get("poni", "")))
    saturation = metadata.get("saturation")
    if isinstance(saturation, int) and saturation > 0:
        # Ours is the smallest unusable value, the protocol's the largest valid one.
        message["saturation_value"] = saturation - 1
    others = dict(start.arrays)
    mask = others.pop("pixel_mask", None)
    message["pixel_mask_enabled"] = mask is not None
    if mask is not None:
        if mask.shape != start.shape:
            raise WireError(f"expected pixel_mask of shape {start.shape}, got {mask.shape}")
        mask = mask.astype(_MASK)
        message["pixel_mask"] = {series.channel: cbor.array_item(mask, bslz4.compress(mask))}
    message["user_data"] = {
        _OURS: {
            "stream": start.stream,
            "metadata": metadata,
            "arrays": {name: cbor.array_item(array) for name, array in others.items()},
        }
    }
    return cbor.dumps(message)


def encode_image(facts: FrameFacts, payload: bytes, start: StreamStart, series: Series) -> bytes:
    """Image message.

    Parameters
    ----------
    facts
        Number, times, monitor and transmission.
    payload
        The image's bslz4 form.
    start, series
        Of the stream.
    """
    clock_hz = series.clock_hz
    stop, remainder = divmod(max(facts.time_ns, 0) * clock_hz, _NS)
    if remainder:  # a time between two ticks: count in ns, exactly
        clock_hz, stop = _NS, max(facts.time_ns, 0)
    real = max(round(facts.exposure_s * clock_hz), 0) if math.isfinite(facts.exposure_s) else 0
    user_data: dict[str, Any] = {}
    if facts.time_ns < 0:  # before the injection: the protocol's times are unsigned
        user_data["time_ns"] = facts.time_ns
    if real / clock_hz != facts.exposure_s:
        user_data["exposure_s"] = float(facts.exposure_s)
    if facts.monitor != 1.0:
        user_data["monitor"] = float(facts.monitor)
    if facts.transmission != 1.0:
        user_data["transmission"] = float(facts.transmission)
    shape, dtype = _image_shape(start.shape), np.dtype(start.dtype)
    message = {
        "type": "image",
        "series_id": series.number,
        "series_unique_id": series.unique_id,
        "image_id": facts.frame,
        "real_time": [real, clock_hz],
        "series_date": _date_item(series.date),
        "start_time": [max(stop - real, 0), clock_hz],
        "stop_time": [stop, clock_hz],
        "data": {series.channel: cbor.item(shape, dtype, payload, compressed=True)},
    }
    if user_data:
        message["user_data"] = user_data
    return cbor.dumps(message)


def encode_end(end: StreamEnd, series: Series) -> bytes:
    """End message."""
    return cbor.dumps(
        {
            "type": "end",
            "series_id": series.number,
            "series_unique_id": series.unique_id,
            "user_data": {"frames": end.frames, "reason": end.reason},
        }
    )


def _date_item(date: datetime) -> cbor2.CBORTag:
    """A date as an EIGER2 writes it, in milliseconds, or finer if it is finer."""
    digits = "microseconds" if date.microsecond % 1000 else "milliseconds"
    return cbor2.CBORTag(0, date.isoformat(timespec=digits))


def _image_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    if len(shape) != 2:
        raise WireError(f"expected an image of shape (rows, columns), got {shape}")
    return shape[0], shape[1]


def _image_type(dtype: str) -> str:
    name = _IMAGE_TYPES.get(np.dtype(dtype).str)
    if name is None:
        raise WireError(
            f"expected images of one of {sorted(_IMAGE_TYPES)}, got {np.dtype(dtype).str}: "
            "Stream V2 carries unsigned integers only"
        )
    return name


def _geometry_fields(poni: str) -> dict[str, float]:
    geometry = parse_poni(poni)
    wavelength = geometry.wavelength_m and geometry.wavelength_m * 1e10
    fields = {
        "beam_center_x": geometry.beam_center_x,
        "beam_center_y": geometry.beam_center_y,
        "detector_distance": geometry.distance_m,
        "incident_energy": _EV_ANGSTROM / wavelength if wavelength else None,
        "incident_wavelength": wavelength,
        "pixel_size_x": geometry.pixel_x_m,
        "pixel_size_y": geometry.pixel_y_m,
    }
    return {name: value for name, value in fields.items() if value is not None}


# Decoding


def message_type(message: Mapping[str, Any]) -> str:
    """``start``, ``image`` or ``end``."""
    kind = message.get("type")
    if kind not in ("start", "image", "end"):
        raise WireError(f"expected type start, image or end, got {str(kind)[:40]!r}")
    return kind


def image_number(message: Mapping[str, Any]) -> int:
    """Frame number of an image message."""
    return _integer(message, "image_id")


def decode_start(
    message: Mapping[str, Any], *, stream: str = "saxs", dtype: str | None = None
) -> StreamStart:
    """Start of an image stream.

    Parameters
    ----------
    message
        As `cbor.loads` gives it.
    stream
        Name to give to a stream that a detector, not we, announced.
    dtype
        Type of the pixels, for a detector that does not say: older ones have no ``image_dtype``.
        Without it, the smallest type that holds ``saturation_value`` is taken.
    """
    run = _text(message, "series_unique_id")
    shape = (_integer(message, "image_size_y"), _integer(message, "image_size_x"))
    pixel = np.dtype(dtype) if dtype is not None else _announced_dtype(message)
    bslz4.array_bytes(shape, pixel)
    channel = _channel(message)
    user_data = message.get("user_data")
    ours = user_data.get(_OURS) if isinstance(user_data, Mapping) else None
    arrays: dict[str, np.ndarray] = {}
    masks = message.get("pixel_mask")
    # Mask and flatfield of a detector that was not asked for them are absent or empty bytes.
    if isinstance(masks, Mapping) and not isinstance(masks.get(channel), bytes | None):
        arrays["pixel_mask"] = cbor.array_of(masks[channel], "pixel_mask", shape, _MASK)
    if ours is None:
        metadata = _foreign_metadata(message, channel)
    else:
        stream, metadata, others = _our_fields(ours)
        arrays |= others
    return StreamStart(stream, run, "image", shape, pixel.str, arrays, metadata)


def _announced_dtype(message: Mapping[str, Any]) -> np.dtype:
    name = message.get("image_dtype")
    for dtype, known in _IMAGE_TYPES.items():
        if name == known:
            return np.dtype(dtype)
    if name is not None:
        raise WireError(
            f"expected image_dtype one of {sorted(_IMAGE_TYPES.values())}, got {str(name)[:40]!r}"
        )
    return np.min_scalar_type(_integer(message, "saturation_value")).newbyteorder("<")


def _channel(message: Mapping[str, Any]) -> str:
    """The first channel. An EIGER2 with two thresholds sends the lower one first."""
    channels = message.get("channels")
    if not isinstance(channels, list | tuple) or not channels or type(channels[0]) is not str:
        raise WireError("expected channels as a list of names that is not empty")
    return channels[0]


def _our_fields(ours: Any) -> tuple[str, dict[str, Any], dict[str, np.ndarray]]:
    if not isinstance(ours, Mapping):
        raise WireError(f"expected user_data.{_OURS} as a map, got {type(ours).__name__}")
    metadata, items = ours.get("metadata", {}), ours.get("arrays", {})
    if not isinstance(metadata, dict) or not isinstance(items, Mapping):
        raise WireError(f"expected maps in user_data.{_OURS}: metadata and arrays")
    arrays = {str(name): cbor.array_of(item, str(name)) for name, item in items.items()}
    return _text(ours, "stream"), json_able(metadata, "metadata"), arrays


def _foreign_metadata(message: Mapping[str, Any], channel: str) -> dict[str, Any]:
    """What a detector said, JSON-able; its tables are left out."""
    tables = ("type", "flatfield", "pixel_mask", "countrate_correction_lookup_table")
    detector = {name: value for name, value in message.items() if name not in tables}
    for name, value in detector.items():
        if isinstance(value, datetime):
            detector[name] = value.isoformat()
    metadata: dict[str, Any] = {
        "source": str(message.get("detector_description", "detector")),
        "series": {"number": _integer(message, "series_id"), "channel": channel},
        "detector": detector,
    }
    if "saturation_value" in message:
        metadata["saturation"] = _integer(message, "saturation_value") + 1
    return json_able(metadata, "metadata")


def json_able(value: Any, what: str) -> Any:
    """`value` if JSON can hold it; else `WireError`."""
    try:
        json.dumps(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise WireError(f"expected {what} that JSON can hold: {error}") from error
    return value


def decode_packed(message: Mapping[str, Any], start: StreamStart) -> PackedImageFrame | None:
    """Image of a stream as it came, the lengths in it checked; None if it came another way."""
    facts, item = image_facts(message, start)
    what = f"{start.stream} frame {facts.frame}"
    payload = cbor.checked_payload(item, what, start.shape, np.dtype(start.dtype))
    if payload is None:
        return None
    return PackedImageFrame(
        start.stream,
        facts.frame,
        facts.time_ns,
        facts.exposure_s,
        payload,
        (start.shape[0], start.shape[1]),
        start.dtype,
        facts.monitor,
        facts.transmission,
    )


def decode_image(message: Mapping[str, Any], start: StreamStart) -> ImageFrame:
    """Image of a stream. Shape and type must be the announced ones."""
    facts, item = image_facts(message, start)
    what = f"{start.stream} frame {facts.frame}"
    image = cbor.array_of(item, what, start.shape, np.dtype(start.dtype))
    frame = build_frame(start, facts, (image,))
    assert isinstance(frame, ImageFrame)
    return frame


def image_facts(message: Mapping[str, Any], start: StreamStart) -> tuple[FrameFacts, Any]:
    """The facts of an image message, and its array item as yet undecoded."""
    check_series(message, start)
    channel = series_of(start).channel
    data = message.get("data")
    if not isinstance(data, Mapping) or channel not in data:
        raise WireError(f"expected data of channel {channel!r}")
    user_data = message.get("user_data", {})
    if not isinstance(user_data, Mapping):
        user_data = {}  # a detector's user may attach anything
    facts = FrameFacts(
        frame=image_number(message),
        time_ns=_time_ns(message, user_data),
        exposure_s=_number(user_data, "exposure_s", _quotient(message, "real_time")),
        monitor=_number(user_data, "monitor", 1.0),
        transmission=_number(user_data, "transmission", 1.0),
    )
    return facts, data[channel]


def check_series(message: Mapping[str, Any], start: StreamStart) -> None:
    """That a message is of the run that the start announced."""
    run = _text(message, "series_unique_id")
    if run != start.run:
        raise WireError(f"expected series {start.run!r}, got {run[:80]!r}")


def decode_end(
    message: Mapping[str, Any], start: StreamStart, frames: int | None = None
) -> StreamEnd:
    """End of a stream.

    ``frames`` is how many numbers were given out, for a detector, which does not say it: the last
    ``image_id`` and one. Without it, ``number_of_images`` of the start is taken.
    """
    check_series(message, start)
    user_data = message.get("user_data")
    if isinstance(user_data, Mapping) and "frames" in user_data:
        count, reason = _integer(user_data, "frames"), _text(user_data, "reason")
        return StreamEnd(start.stream, start.run, count, reason)
    if frames is None:
        detector = start.metadata.get("detector")
        frames = _integer(detector if isinstance(detector, Mapping) else {}, "number_of_images")
    return StreamEnd(start.stream, start.run, frames)


def _time_ns(message: Mapping[str, Any], user_data: Mapping[str, Any]) -> int:
    """End of the exposure in ns, rounded half up: exact wherever the clock divides 1 ns."""
    given = user_data.get("time_ns")
    if type(given) is int:
        return given
    numerator, denominator = _rational(message, "stop_time")
    return (2 * numerator * _NS + denominator) // (2 * denominator)


def _quotient(message: Mapping[str, Any], key: str) -> float:
    numerator, denominator = _rational(message, key)
    return numerator / denominator


def _rational(message: Mapping[str, Any], key: str) -> tuple[int, int]:
    value = message.get(key)
    if (
        not isinstance(value, list | tuple)
        or len(value) != 2
        or not all(type(part) is int and part >= 0 for part in value)
        or value[1] == 0
    ):
        raise WireError(f"expected {key} as [numerator, denominator], got {str(value)[:60]}")
    return value[0], value[1]


def _integer(message: Mapping[str, Any], key: str) -> int:
    value = message.get(key)
    if type(value) is not int or not 0 <= value <= MAX_INT64:
        raise WireError(f"expected {key} as an integer of 0 or more, got {str(value)[:60]!r}")
    return value


def _text(message: Mapping[str, Any], key: str) -> str:
    value = message.get(key)
    if type(value) is not str:
        raise WireError(f"expected {key} as text, got {type(value).__name__}")
    return value


def _number(message: Mapping[str, Any], key: str, default: float) -> float:
    value = message.get(key, default)
    if type(value) not in (int, float):
        raise WireError(f"expected {key} as a number, got {type(value).__name__}")
    return float(value)
