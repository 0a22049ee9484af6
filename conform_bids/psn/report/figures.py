"""Figures of a fit: maps before and after denoising, and how parcels were fitted."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from conform_bids.bids.names import relative_path
from conform_bids.bids.spaces import Space
from conform_bids.bids.tables import read_tsv
from conform_bids.psn.report.curves import plot_calibration, plot_likelihoods, plot_reliability, plot_spectra
from conform_bids.report import figures as draw

__all__ = ["draw_figures"]

FloatArray = NDArray[np.float64]
STATES = (("denoised", "#3b76af"), ("passed on", "#ef8636"), ("mean only", "#c03d3e"), ("none", "#888888"))


def draw_figures(folder: Path, space: Space, entities: Mapping[str, str], output_dir: Path) -> list[Path]:
    """Draw the figures of a fit into the participant's folder ``figures``.

    Parameters
    ----------
    folder : Path
        Of the arrays of the fit.
    space : Space
        What their units are.
    entities : mapping
        Of the outputs.

    Returns
    -------
    list of Path
        Figures, named like the maps that they show.
    """

    def at(extension: str, suffix: str, **more: str) -> Path:
        name = relative_path({**entities, **more}, suffix, extension).rsplit("/", 1)[1]
        return output_dir / f"sub-{entities['sub']}" / "figures" / name

    def values(name: str) -> FloatArray:
        found: FloatArray = np.load(folder / f"{name}.npy").astype(np.float64)
        return found

    before, after = values("noise_ceiling_before"), values("noise_ceiling_after")
    high = draw.robust_limit(np.concatenate([before, after]), most=100.0)
    maps: list[tuple[FloatArray, draw.Scale, str, str]] = [
        (before, draw.Scale("Noise ceiling before (%)", 0.0, high, start=0.18), "noiseceiling", "trialavg"),
        (after, draw.Scale("Noise ceiling after (%)", 0.0, high, start=0.18), "noiseceiling", "psn"),
    ]
    for name, label, stat in (("ncsnr", "Noise-ceiling SNR", "ncsnr"), ("dimensions", "Dimensions that pass", "dimensions")):
        found = values(name)
        maps.append((found, draw.Scale(label, 0.0, draw.robust_limit(found), start=0.18), stat, "psn"))
    gain = 100 * values("cv_gain")
    most = draw.robust_limit(np.abs(gain))
    maps.append((gain, draw.Scale("Gain, single trials (%)", -most, most, colour_map="RdBu_r"), "cvgain", "psn"))
    states = np.clip(values("status") - 1, 0, 3)
    maps.append((states, draw.Scale("", categories=STATES), "status", "psn"))
    figures = [
        draw.plot_map(found, space, at(".png", "statmap", stat=stat, desc=desc), scale)
        for found, scale, stat, desc in maps
        if np.isfinite(found).any()
    ]
    if np.isfinite(before).any():
        samples = {"before": before, "after, cross-fitted": after}
        path = at(".svg", "bold", desc="ceilings")
        figures.append(draw.plot_distributions(samples, path, xlabel="Noise ceiling (%)", limits=(0.0, 100.0)))
    return [*figures, *_draw_curves(folder, lambda desc: at(".svg", "bold", desc=desc))]


def _draw_curves(folder: Path, at: Callable[[str], Path]) -> list[Path]:
    """Plots of how parcels were fitted; those that a method has no numbers for are left out."""
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    spectrum, parcels = (read_tsv(folder / name, quoted=False) for name in ("spectrum.tsv", "parcels.tsv"))
    with np.load(folder / "curves.npz", allow_pickle=False) as archive:
        kept = {name: archive[name] for name in archive.files}
    curves = {
        name: values
        for name, values in kept.items()
        if name.startswith("curve_") and (np.isfinite(values).all(axis=0) & (values[0] > 0)).any()
    }
    noise, data = ([kept[name] for name in kept if name.startswith(f"{kind}_likelihood_")] for kind in ("noise", "data"))
    figures = []
    if len(spectrum):
        figures.append(plot_spectra(spectrum, at("spectra")))
    if curves:
        figures.append(plot_calibration(curves, summary["method"], at("calibration")))
    if noise and data:
        figures.append(plot_likelihoods(noise, data, at("likelihood")))
    if parcels["reliability_before"].notna().any():
        columns = ["reliability_before", "reliability_after", "reliability_in_sample"]
        figures.append(plot_reliability(parcels, pd.DataFrame(summary["null"], columns=columns), at("reliability")))
    return figures
