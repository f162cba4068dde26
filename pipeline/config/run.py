"""The whole of a config file."""

from typing import Self

from pydantic import Field, model_validator

from pipeline.config.acquisition import Acquisition
from pipeline.config.assembly import AssemblyAnalysis
from pipeline.config.base import Section
from pipeline.config.detect import Detection
from pipeline.config.exciton import ExcitonFit
from pipeline.config.invariants import InvariantsAnalysis
from pipeline.config.magic import MagicAnalysis
from pipeline.config.phases import PhasesAnalysis
from pipeline.config.plumbing import Bus, Store
from pipeline.config.populations import PopulationsFit
from pipeline.config.reaction import ReactionAnalysis
from pipeline.config.reduce import AbsorbanceReduction, AreaReduction
from pipeline.config.replay import ReplayFormat
from pipeline.config.sample import Sample
from pipeline.config.size_distribution import SizeInversion
from pipeline.config.structure import StructureAnalysis


class SaxsAnalysis(Section):
    """From image to populations and order."""

    reduce: AreaReduction = AreaReduction()
    fit: PopulationsFit | None = PopulationsFit()
    """Absent = curves only."""
    invariants: InvariantsAnalysis | None = InvariantsAnalysis()
    """Absent = none are computed."""
    size_distribution: SizeInversion | None = None
    """Absent = no distribution without a model of its shape."""
    assembly: AssemblyAnalysis | None = None
    """Absent = order is not sought."""
    structure: StructureAnalysis | None = StructureAnalysis()
    """Of frames that are searched for order. Absent = no structure factor and no lines."""
    extra_stages: tuple[str, ...] = ()
    """Stages of your own, ``package.module:Class``, that follow these."""


class WaxsAnalysis(Section):
    """From image to curve and crystals, of a second area detector."""

    reduce: AreaReduction = AreaReduction()
    phases: PhasesAnalysis | None = None
    """Absent = curves only."""
    extra_stages: tuple[str, ...] = ()
    """Stages of your own, ``package.module:Class``, that follow."""


class AbsorbanceAnalysis(Section):
    """From counts to the exciton."""

    reduce: AbsorbanceReduction = AbsorbanceReduction()
    fit: ExcitonFit | None = ExcitonFit()
    """Absent = spectra only."""
    magic: MagicAnalysis | None = None
    """Absent = discrete sizes are not sought."""
    extra_stages: tuple[str, ...] = ()
    """Stages of your own, ``package.module:Class``, that follow these."""


class RunConfig(Section):
    """One experiment: what is in the vial, what looks at it, what is asked."""

    name: str = Field(default="run", pattern=r"^[A-Za-z0-9_.-]+$")
    """Short name, for files and lists."""
    description: str = ""
    """One line for people."""
    sample: Sample = Sample()
    acquisition: Acquisition = Acquisition()
    replay: ReplayFormat = ReplayFormat()
    saxs: SaxsAnalysis = SaxsAnalysis()
    waxs: WaxsAnalysis = WaxsAnalysis()
    absorbance: AbsorbanceAnalysis = AbsorbanceAnalysis()
    reaction: ReactionAnalysis | None = ReactionAnalysis()
    """Absent = rates, balance and agreement of the two sizes are not asked for."""
    detect: Detection = Detection()
    bus: Bus = Bus()
    store: Store = Store()

    @model_validator(mode="after")
    def _window_holds_a_search(self) -> Self:
        fit = self.saxs.fit
        if fit is not None and fit.search_every >= self.bus.link_window:
            raise ValueError(
                "link_window: expected more than saxs.fit.search_every, since results are kept "
                f"until a search has passed; got {self.bus.link_window} and {fit.search_every}"
            )
        return self
