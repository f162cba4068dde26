"""Curves of a run as files that other programs read: NXcanSAS and text.

Nothing here knows where the curves come from: the command reads them over HTTP, the server out of
its own catalog, and both hand them to the same writers.
"""

from pipeline.export.curves import (
    CONCENTRATIONS,
    CurveSet,
    ExportError,
    FrameCurve,
    NotThereError,
    curve_set,
    slabs_to_curves,
)
from pipeline.export.nxcansas import write_nxcansas
from pipeline.export.selection import Chosen, Ledger, Request
from pipeline.export.text import curve_text

__all__ = [
    "CONCENTRATIONS",
    "Chosen",
    "CurveSet",
    "ExportError",
    "FrameCurve",
    "Ledger",
    "NotThereError",
    "Request",
    "curve_set",
    "curve_text",
    "slabs_to_curves",
    "write_nxcansas",
]
