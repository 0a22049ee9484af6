"""Dimensions, smoothing, kernel and weights, chosen by cross-validation over the stimuli of the fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from conform_bids.align.numerics.data import Block, Parcel, PersonData, Standard, parcel_block, unit_spacing
from conform_bids.align.numerics.families import GAUSSIAN, Candidate, fit_family, start_scores
from conform_bids.align.numerics.kernels import smoothing_kernel
from conform_bids.align.numerics.options import LARGEST_SHARE, AlignOptions, Setting
from conform_bids.align.numerics.predict import shared_responses
from conform_bids.align.numerics.ridge import stack_weights
from conform_bids.numerics.compute import Compute, map_blocks

__all__ = ["choose_setting", "parcel_positions"]

Array = NDArray[np.floating]
FOLDS, FOLDS_OF_FEW, FEW_STIMULI = 3, 5, 60
"""Folds of stimuli; more of them where stimuli are few."""
TUNING_SWEEPS = 10
"""Sweeps of the fits that are only compared."""


@dataclass(frozen=True, eq=False)
class _Part:
    """One parcel of the tuning, all people."""

    block: Block
    coordinates: Array | None
    weights: NDArray[np.float64]


def parcel_positions(coordinates: Array | None, parcel: Parcel, spacing: float) -> NDArray[np.float64] | None:
    """Positions of a parcel's units in spacings; None without positions."""
    return None if coordinates is None else np.asarray(coordinates[parcel.units], dtype=np.float64) / spacing


def _moments(
    predictions: Sequence[Array], observed: Array, unit_weights: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sums of products of predictions, (n, n), and with what they predict, (n,), over stimuli and weighted units."""
    stacked = np.stack([np.asarray(each, dtype=np.float64) for each in predictions])
    weighted = stacked * unit_weights
    return np.tensordot(weighted, stacked, axes=([1, 2], [1, 2])), np.tensordot(weighted, observed.astype(np.float64), axes=2)


def choose_setting(
    people: Sequence[PersonData],
    standards: Sequence[Standard],
    parcels: Sequence[Parcel],
    options: AlignOptions,
    compute: Compute,
    coordinates: Array | None = None,
) -> Setting:
    """Choose what a method leaves open.

    Folds of stimuli are left out in turn: all people are fitted on the rest, and each person's own responses to the fold are predicted from
    the other people's. The candidate with the highest correlation, pooled over people and some parcels, is taken; the weights of the stack
    are by least squares on the same predictions. (Leave-one-out over stimuli with the shared responses held fixed would be cheaper, but
    with few stimuli these are nearly a basis of all stimuli, a held-out one is nearly orthogonal to the rest, and it chose too few
    dimensions.)

    Parameters
    ----------
    people, parcels, options, compute, coordinates
        As in `fit_template`.
    standards : sequence of Standard

    Returns
    -------
    Setting
    """
    n_stimuli = int(max(person.rows.max() for person in people)) + 1
    spatial = coordinates is not None
    members = tuple(name for name in options.members(n_stimuli) if spatial or name != "kernel") or ("zero",)
    if members[0] in ("procrustes", "ridge"):
        return Setting(weights={members[0]: 1.0})
    spacing = unit_spacing(coordinates) if coordinates is not None else 1.0

    def gather(index: int) -> _Part:
        own = [parcels[index] if person.parcels is None else person.parcels[index] for person in people]
        place = parcel_positions(coordinates, parcels[index], spacing)
        return _Part(parcel_block(people, standards, own, n_stimuli), place, np.asarray(parcels[index].weights, dtype=np.float64))

    chosen = np.unique(np.linspace(0, len(parcels) - 1, min(options.tuning_parcels, len(parcels))).round().astype(int))
    parts = [gather(int(index)) for index in chosen]
    folds = _folds(n_stimuli, options)
    options = replace(options, n_sweeps=min(options.n_sweeps, TUNING_SWEEPS))
    setting = Setting()
    for name in members:
        setting = _choose_family(name, parts, folds, options, setting, n_stimuli, compute)
    return replace(setting, weights=_pooled_weights(members, parts, folds, options, setting, compute))


def _folds(n_stimuli: int, options: AlignOptions) -> list[NDArray[np.intp]]:
    """Stimuli left out together; few stimuli are left out in smaller parts."""
    count = min(FOLDS_OF_FEW if n_stimuli < FEW_STIMULI else FOLDS, n_stimuli)
    order = np.random.default_rng(options.seed).permutation(n_stimuli)
    return [np.sort(order[start::count]) for start in range(count)]


def _choose_family(
    name: str,
    parts: Sequence[_Part],
    folds: Sequence[NDArray[np.intp]],
    options: AlignOptions,
    setting: Setting,
    n_stimuli: int,
    compute: Compute,
) -> Setting:
    """Dimensions and width of one family; for the kernel first these, then the kernel."""
    ks = options.candidates(n_stimuli) if name in GAUSSIAN or name == "srm" else (0,)
    tried = [setting.dimensions[each] for each in GAUSSIAN if each in setting.dimensions]
    if name in GAUSSIAN and tried:  # priors differ little in what they want, and a stronger one no more: the first choice, or one less
        place = ks.index(tried[0])
        ks = ks[max(place - 1, 0) : place + 1]
    kernels = options.kernels if name == "kernel" else ((0.0, 0.0),)
    middle = kernels[len(kernels) // 2]
    found = _score_candidates([Candidate(name, k, 0.0, middle) for k in ks], parts, folds, options, compute)
    if len(kernels) > 1:
        best = max(found, key=lambda each: found[each])
        others = [Candidate(name, best.dimensions, 0.0, kernel) for kernel in kernels if kernel != middle]
        found |= _score_candidates(others, parts, folds, options, compute)
    best = max(found, key=lambda each: found[each])
    return replace(
        setting,
        dimensions=setting.dimensions | ({name: best.dimensions} if best.dimensions else {}),
        widths=setting.widths | {name: best.width},
        kernel=best.kernel if name == "kernel" else setting.kernel,
        scores=setting.scores | {_describe(each): value for each, value in found.items()},
    )


def _describe(candidate: Candidate) -> str:
    parts = [candidate.family]
    if candidate.dimensions:
        parts.append(f"{candidate.dimensions} dimensions")
    if candidate.family == "kernel":
        parts.append(f"kernel {candidate.kernel[0]:g} / {candidate.kernel[1]:g}")
    return ", ".join([*parts, f"smoothing {candidate.width:g}"])


def _score_candidates(
    candidates: Sequence[Candidate], parts: Sequence[_Part], folds: Sequence[NDArray[np.intp]], options: AlignOptions, compute: Compute
) -> dict[Candidate, float]:
    """Mean correlation of each candidate at each width."""
    smoothed = parts[0].coordinates is not None and candidates[0].family != "srm"
    widths = options.widths if smoothed else (0.0,)

    def score(part: _Part) -> NDArray[np.float64]:
        rows = np.zeros((len(candidates), len(widths)))
        predictions, observed = _held_out_predictions(candidates, part, folds, options)
        kernels = [smoothing_kernel(part.coordinates, width, len(part.weights)) if width > 0 else None for width in widths]
        for i, people in enumerate(predictions):
            for j, kernel in enumerate(kernels):
                smooth = people if kernel is None else [each @ kernel for each in people]
                rows[i, j] = np.mean([_mean_correlation(each, own, part) for each, own in zip(smooth, observed, strict=True)])
        return rows

    mean = np.mean(map_blocks(score, parts, compute), axis=0)
    return {replace(each, width=width): float(mean[i, j]) for i, each in enumerate(candidates) for j, width in enumerate(widths)}


def _mean_correlation(predicted: Array, observed: Array, part: _Part) -> float:
    correlation = _correlate(predicted, observed)
    weights = part.weights if len(part.weights) == len(correlation) else np.ones(len(correlation))
    known = np.isfinite(correlation) & (weights > 0)
    return float(np.average(correlation[known], weights=weights[known])) if known.any() else 0.0


def _correlate(predicted: Array, observed: Array) -> NDArray[np.floating]:
    """Correlation of columns in the precision they have: to rank candidates, float32 will do."""
    first, second = predicted - predicted.mean(axis=0), observed - observed.mean(axis=0)
    size = np.einsum("ij,ij->j", first, first) * np.einsum("ij,ij->j", second, second)
    correlation: NDArray[np.floating] = np.einsum("ij,ij->j", first, second) / np.sqrt(np.where(size > 0, size, np.nan))
    return correlation


def _fold_block(block: Block, kept: NDArray[np.intp]) -> tuple[Block, Array]:
    """The stimuli kept, and all responses, both centred on the kept: centred on all, the kept would tell the sum of the left out."""
    centred = np.zeros_like(block.values)
    for i in range(block.n_people):
        columns = slice(block.edges[i], block.edges[i + 1])
        rows = block.seen[i, kept]
        mean = block.values[kept[rows], columns].mean(axis=0) if rows.any() else 0
        centred[:, columns] = (block.values[:, columns] - mean) * block.seen[i][:, None]
    return Block(centred[kept], block.seen[:, kept], block.precision, block.edges), centred


def _held_out_predictions(
    candidates: Sequence[Candidate], part: _Part, folds: Sequence[NDArray[np.intp]], options: AlignOptions
) -> tuple[list[list[Array]], list[Array]]:
    """Predictions, a candidate and a person, of stimuli that no map has seen, and what was measured; (stimuli, units) each."""
    block = part.block
    everybody = range(block.n_people)
    predicted = [[np.zeros_like(block.person(i)) for i in everybody] for _ in candidates]
    known = np.zeros(block.seen.shape, bool)
    for fold in folds:
        kept = np.setdiff1d(np.arange(block.seen.shape[1]), fold)
        training, centred = _fold_block(block, kept)
        most = max(1, int(LARGEST_SHARE * len(kept)))
        start = start_scores(training, min(most, max(each.dimensions for each in candidates))) if candidates[0].dimensions else None
        for c, candidate in enumerate(candidates):
            reduced = replace(candidate, dimensions=min(candidate.dimensions, most), width=0.0)
            template, maps = fit_family(reduced, training, part.coordinates, options, start)
            for i in everybody:
                others = [j for j in everybody if j != i and block.seen[j, fold].any()]
                given = [
                    (
                        maps[j],
                        np.flatnonzero(block.seen[j, fold]),
                        centred[fold[block.seen[j, fold]], block.edges[j] : block.edges[j + 1]],
                        block.person_precision(j) > 0,
                    )
                    for j in others
                ]
                if given:
                    predicted[c][i][fold] = shared_responses(given, template, len(fold)) @ maps[i].decode
        for i in everybody:
            known[i, fold] = block.seen[i, fold] & np.delete(block.seen[:, fold], i, axis=0).any(axis=0)
    return [[people[i][known[i]] for i in everybody] for people in predicted], [block.person(i)[known[i]] for i in everybody]


def _pooled_weights(
    members: Sequence[str],
    parts: Sequence[_Part],
    folds: Sequence[NDArray[np.intp]],
    options: AlignOptions,
    setting: Setting,
    compute: Compute,
) -> dict[str, float]:
    if len(members) == 1:
        return {members[0]: 1.0}
    candidates = [Candidate(name, setting.dimensions.get(name, 0), setting.widths[name], setting.kernel) for name in members]

    def moments(part: _Part) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        kernels = [smoothing_kernel(part.coordinates, each.width, len(part.weights)) for each in candidates]
        single = [_held_out_predictions([each], part, folds, options) for each in candidates]
        gram, moment = np.zeros((len(members), len(members))), np.zeros(len(members))
        for i, observed in enumerate(single[0][1]):
            smooth = [people[0][i] @ kernel for (people, _), kernel in zip(single, kernels, strict=True)]
            more = _moments(smooth, observed, part.weights)
            gram, moment = gram + more[0], moment + more[1]
        return gram, moment

    found = map_blocks(moments, parts, compute)
    gram, moment = np.sum([each for each, _ in found], axis=0), np.sum([each for _, each in found], axis=0)
    weights = stack_weights(gram, moment)
    if not weights.any():  # nothing predicts: anatomy, rather than no prediction
        weights[0] = 1.0
    return {name: float(value) for name, value in zip(members, weights, strict=True)}
