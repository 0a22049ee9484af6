"""Figures of the report of conform-psn say what they show."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conform_bids.psn.numerics.engine import EngineOptions, TrialSet, denoise_parcels
from conform_bids.psn.report import curves
from conform_bids.psn.report.group import write_group_report
from conform_bids.psn.report.participant import write_participant_report
from conform_bids.psn.report.wording import AFTER
from conform_bids.psn.settings import METHODS, PSNSettings


@pytest.mark.parametrize("method", METHODS)
def test_strengths_of_denoising_are_named(method: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The axis is numbers of dimensions where the engine's curve counts from 0, and weights of the noise elsewhere."""
    from conform_bids.numerics.compute import Compute

    generator = np.random.default_rng(0)
    condition = np.repeat(np.arange(12), 3)
    signal = generator.standard_normal((12, 3)) @ generator.standard_normal((3, 15))
    betas = (signal[condition] + generator.standard_normal((36, 15))).T.astype(np.float32)
    kept: dict[str, Any] = {}
    denoise_parcels(
        np.ascontiguousarray(betas),
        TrialSet(condition, np.zeros(36, np.intp), np.ones(36, bool)),
        np.zeros(15, np.intp),
        EngineOptions(method=method, session_zscore=False, null_parcels=0, crossfit=False),
        Compute(),
        store=lambda label, found: kept.update({f"curve_{label}": found.curve}),
    )
    named: list[str] = []
    monkeypatch.setattr(curves, "finish_axes", lambda axes, xlabel, *_, **__: named.append(xlabel))
    curves.plot_calibration(kept, method, tmp_path / "calibration.svg")
    counted = np.array_equal(kept["curve_0"][0], np.arange(len(kept["curve_0"][0])))
    assert named == ["Dimensions kept" if counted else "Weight of the noise"]
    assert (tmp_path / "calibration.svg").stat().st_size > 0


def test_what_ceilings_after_denoising_are_not_is_said(tmp_path: Path) -> None:
    (page,) = write_participant_report("01", tmp_path, PSNSettings(), {}, (), 4)
    assert "how repeatable those are, not how much signal a unit has" in page.read_text()
    _, page = write_group_report(tmp_path, (), PSNSettings(), {})
    assert AFTER in page.read_text() and "conform-psn: 0 fits of 0 participants" in page.read_text()
