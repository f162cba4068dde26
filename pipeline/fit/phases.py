"""Stage: a wide-angle curve becomes phases, their cells and sizes, and lines without a model."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import ClassVar

import numpy as np

from pipeline.config.phases import PhasesAnalysis
from pipeline.fit.phase_problem import PhasePlan, make_plan, window_of
from pipeline.fit.phase_row import make_row
from pipeline.fit.phase_search import Points, choose_phases
from pipeline.fit.reflections import reflections_of
from pipeline.fit.usable import usable_points
from pipeline.kernels.weights import counting_gain, counting_weight, running_mean
from pipeline.messages import (
    Line,
    Result,
    RunStart,
    WaxsCurve,
    WaxsLines,
    WaxsPhases,
)

MIN_POINTS = 24
"""Fewer than about twice the parameters of background and one phase say nothing."""


class FitPhases:
    """Fits each curve on its own: no frame depends on another.

    Model: I(q) = background + halos + amorphous + sum over phases of their powder patterns (see
    `pipeline.kernels.powder`). Phases that the curve does not need are absent. Crystals are
    reported where a search over all phases, sizes and cells is significant after look-elsewhere;
    the background, the halos and what is amorphous are projected out of it.

    Parameters
    ----------
    settings
        Phases, window, background, what is known of cells and sizes.
    background
        q in 1/nm (rising) and intensity of the curve whose height is fitted, if any.

    Raises
    ------
    ValueError
        If a phase's cell, space group or CIF cannot be used.
    """

    name: ClassVar[str] = "phases"
    consumes: ClassVar[tuple[type, ...]] = (WaxsCurve,)
    produces: ClassVar[tuple[type[Result], ...]] = (WaxsPhases, WaxsLines)

    def __init__(
        self, settings: PhasesAnalysis, background: tuple[np.ndarray, np.ndarray] | None = None
    ) -> None:
        self.settings = settings
        self._background = background
        # Wide patterns reach into the window from beyond it: as far as the widest profile.
        widest = (
            settings.scherrer_k
            * 2.0
            * np.pi
            / min(
                settings.amorphous_order_nm if settings.amorphous_of else settings.size_range_nm[0],
                settings.size_range_nm[0],
            )
        )
        reach = settings.q_max_per_nm + 1.5 * widest
        self._reflections = tuple(reflections_of(phase, reach) for phase in settings.phases)
        self._plan: PhasePlan | None = None

    def warm_up(self) -> None:
        """Compile every kernel of this stage, or load it from the disk's cache."""
        warm_up()

    def reset(self, start: RunStart, /) -> None:
        """A new run may have another q axis."""
        self._plan = None

    def process(self, message: WaxsCurve, /) -> Iterable[Result]:
        """Fit one curve.

        Returns
        -------
        tuple
            The row of phases and that of lines.

        Raises
        ------
        BadFrameError
            If too few points can be used.
        """
        points = self._usable(message)
        plan = self._plan
        if plan is None or not plan.fits(message.q_per_nm, message.q_resolution_per_nm):
            plan = self._plan = make_plan(
                self.settings,
                self._reflections,
                message.q_per_nm,
                message.q_resolution_per_nm,
                self._background,
            )
        chosen = choose_phases(plan, points, self.settings.report_sigma)
        lines = self._lines(plan, points)
        row = make_row(self.settings, plan, points, message, chosen, lines)
        return row, WaxsLines.of(message.frame, message.time_s, lines)

    def _usable(self, curve: WaxsCurve) -> Points:
        """Points in the window."""
        window = window_of(self.settings, curve.q_per_nm)
        ends = self.settings.q_min_per_nm, self.settings.q_max_per_nm
        intensity, sigma, estimated = usable_points(curve, window, ends, MIN_POINTS, "waxs")
        weight = 1.0 / sigma
        if self.settings.weights == "model" and not estimated:
            gain = counting_gain(intensity, sigma)
            # A curve that counted nothing has no gain either, and keeps its errors.
            if gain.any():
                weight = counting_weight(gain, running_mean(intensity, sigma))
        weight = weight / np.hypot(1.0, self.settings.model_error * intensity * weight)
        return Points(intensity, weight, estimated)

    @staticmethod
    def _lines(plan: PhasePlan, points: Points) -> tuple[Line, ...]:
        """Lines over the same background, whatever the phases."""
        sigma = np.full(points.weight.size, np.inf)
        used = points.weight > 0.0
        sigma[used] = 1.0 / points.weight[used]
        ones = np.ones(points.weight.size)
        return plan.lines.find(points.intensity, sigma, ones, plan.nuisances).lines


def warm_up() -> None:
    """Compile (or load from disk) every kernel of this stage, by fitting one small curve."""
    q = np.linspace(8.0, 24.0, 120)
    noise = 0.01 * np.sin(7.0 * np.arange(q.size))
    intensity = (
        10.0 + noise + np.exp(-(((q - 15.2) / 0.4) ** 2)) + 3.0 * np.exp(-(((q - 21.5) / 0.4) ** 2))
    )
    settings = PhasesAnalysis.model_validate(
        {
            "phases": ["CsPbBr3_Pbnm", "PbBr2"],
            "q_max_per_nm": 24.0,
            "amorphous_of": "CsPbBr3_Pbnm",
        }
    )
    stage = FitPhases(settings)
    curve = WaxsCurve(
        frame=0,
        time_s=0.0,
        q_per_nm=q,
        intensity=intensity,
        sigma=np.full(q.size, 0.01),
        absolute=False,
    )
    stage.process(curve)
    # Errors out of the curve's own scatter have a kernel too.
    stage.process(replace(curve, sigma=np.full(q.size, np.nan)))
