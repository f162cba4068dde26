"""Which detectors a config asks for."""

from pipeline.config.detect import Detection
from pipeline.detect.crystals import CrystalLines, Crystals
from pipeline.detect.guard import Artefacts
from pipeline.detect.interface import Detector
from pipeline.detect.lattice import Lattice
from pipeline.detect.order import Superlattice
from pipeline.detect.phases import CsDopaPhases, CsOleatePhases, Nucleation

PHASES = {"cs_dopa": CsDopaPhases, "cs_oleate": CsOleatePhases, "growth": Nucleation}


def detectors_for(settings: Detection, *, wide_angle: bool = False) -> list[Detector]:
    """Detectors of a config, fresh: each run needs its own.

    Parameters
    ----------
    settings
        Section ``detect`` of a config.
    wide_angle
        Whether the run has lines and phases of a wide-angle detector.
    """
    detectors: list[Detector] = []
    if settings.recipe != "none":
        detectors += [PHASES[settings.recipe](settings), Artefacts()]
    if settings.superlattice:
        detectors += [Superlattice(settings), Lattice(settings)]
    if settings.crystals and wide_angle:
        detectors += [CrystalLines(settings), Crystals(settings)]
    return detectors
