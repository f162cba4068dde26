"""Frozen types that travel between the parts. Nothing here opens a file, a socket or a clock.

A time is seconds since the run's zero (the injection) at the *end* of the exposure, and comes
from the detector; no stage reads a clock, so a replay equals the live run.
"""

from pipeline.messages.frames import (
    CurveFrame,
    Frame,
    ImageFrame,
    PackedImageFrame,
    SpectrumFrame,
    StreamEnd,
    StreamStart,
    frozen_array,
)
from pipeline.messages.invariants import Invariants
from pipeline.messages.lattice import LatticeRow
from pipeline.messages.lines import (
    FormFactor,
    Line,
    LinesRow,
    OrderedCurve,
    OrderLines,
    StructureFactor,
    WaxsLines,
    lines_of,
)
from pipeline.messages.magic import (
    MagicHistogram,
    MagicLadder,
    MagicPlateaus,
    MagicTracks,
    Minima,
    SecondDerivative,
)
from pipeline.messages.optical import Exciton
from pipeline.messages.order import JudgedCurve, Peak
from pipeline.messages.populations import FittedCurve, Populations
from pipeline.messages.reaction import ReactionGrowth
from pipeline.messages.results import (
    ArrayResult,
    Cake,
    Curve,
    FrameResults,
    MapResult,
    Result,
    RowResult,
    Spectrum,
    WaxsCake,
    WaxsCurve,
)
from pipeline.messages.size_distribution import SizeDistribution, SizeMoments
from pipeline.messages.stage import BadFrameError, RunDocument, RunStart, Stage
from pipeline.messages.tracks import (
    CellContraction,
    CrystalTracks,
    LineTracks,
    OrderTracks,
    SpacingContraction,
)
from pipeline.messages.waxs import Phase, PhasesRow, WaxsPhases, phases_of

__all__ = [
    "ArrayResult",
    "BadFrameError",
    "Cake",
    "CellContraction",
    "CrystalTracks",
    "Curve",
    "CurveFrame",
    "Exciton",
    "FittedCurve",
    "FormFactor",
    "Frame",
    "FrameResults",
    "ImageFrame",
    "Invariants",
    "JudgedCurve",
    "LatticeRow",
    "Line",
    "LineTracks",
    "LinesRow",
    "MagicHistogram",
    "MagicLadder",
    "MagicPlateaus",
    "MagicTracks",
    "MapResult",
    "Minima",
    "OrderLines",
    "OrderTracks",
    "OrderedCurve",
    "PackedImageFrame",
    "Peak",
    "Phase",
    "PhasesRow",
    "Populations",
    "ReactionGrowth",
    "Result",
    "RowResult",
    "RunDocument",
    "RunStart",
    "SecondDerivative",
    "SizeDistribution",
    "SizeMoments",
    "SpacingContraction",
    "Spectrum",
    "SpectrumFrame",
    "Stage",
    "StreamEnd",
    "StreamStart",
    "StructureFactor",
    "WaxsCake",
    "WaxsCurve",
    "WaxsLines",
    "WaxsPhases",
    "frozen_array",
    "lines_of",
    "phases_of",
]
