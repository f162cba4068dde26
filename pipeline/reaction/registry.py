"""Which streams are made of a run's tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pipeline.config import RunConfig
from pipeline.config.tracks import TrackAnalysis
from pipeline.reaction.growth import ABSORBANCE, SAXS, JoinedGrowth
from pipeline.reaction.interface import RowStage, RowStream, SingleTable


def row_streams_for(config: RunConfig, streams: Sequence[str]) -> list[RowStream]:
    """Streams of a config, fresh: each run needs its own.

    Parameters
    ----------
    config
        Of the run.
    streams
        Those that the run's detectors, or its recording, send.
    """
    made: list[RowStream] = []
    fitted = {SAXS: config.saxs.fit, ABSORBANCE: config.absorbance.fit}
    tables = [n for n, fit in fitted.items() if fit is not None and n.split("/")[0] in streams]
    if config.reaction is not None and tables:
        made.append(JoinedGrowth(config.reaction, config.sample, tables))
    metadata = {"streams": tuple(streams)}
    return [*made, *(SingleTable(stage, metadata) for stage in row_stages_for(config, streams))]


def row_stages_for(config: RunConfig, streams: Sequence[str]) -> list[RowStage]:
    """Stages that read one table each; a new one is added here and nowhere else."""
    stages: list[RowStage] = []
    seen = config.absorbance
    if seen.magic is not None and seen.fit is not None and "absorbance" in streams:
        from pipeline.reaction.magic import MagicSizes
        from pipeline.sizing_curve import SizingCurve

        magic = MagicSizes(seen.magic, SizingCurve(seen.fit).diameter_nm)
        magic.warm_up()
        stages.append(magic)
    if config.tracks is not None:
        stages += _followed(config, config.tracks, streams)
    return stages


def _followed(
    config: RunConfig, settings: TrackAnalysis, streams: Sequence[str]
) -> Iterator[RowStage]:
    """Stages of what order and crystals are followed by."""
    saxs = config.saxs
    if saxs.assembly is not None and saxs.fit is not None and "saxs" in streams:
        from pipeline.reaction.contraction import CellOverTime, SpacingOverTime
        from pipeline.reaction.line_tracks import FollowOrderLines

        yield SpacingOverTime(settings)
        if saxs.structure is not None:
            yield FollowOrderLines(settings)
            if saxs.lattice is not None:
                yield CellOverTime(settings)
    if config.waxs.phases is not None and "waxs" in streams:
        from pipeline.reaction.line_tracks import FollowCrystalLines

        yield FollowCrystalLines(settings)
