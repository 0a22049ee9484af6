"""Dimensions, smoothing, kernel and weights, chosen on people left out in turn, from the stimuli of the fit alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from conform_bids.align.numerics.data import Block, Parcel, PersonData, Standard, parcel_block, unit_spacing
from conform_bids.align.numerics.families import GAUSSIAN, Candidate, fit_family, fit_member, start_scores
from conform_bids.align.numerics.kernels import smoothing_kernel
from conform_bids.align.numerics.options import AlignOptions, Setting
from conform_bids.align.numerics.ridge import stack_weights
from conform_bids.align.numerics.shared_response import score_dimensions
from conform_bids.numerics.compute import Compute, map_blocks
from conform_bids.numerics.scores import correlate_columns

__all__ = ["choose_setting", "parcel_positions", "stack_moments"]

Array = NDArray[np.floating]
N_FOLDS = 3


@dataclass(frozen=True, eq=False)
class _Part:
    """One parcel of the tuning, all people."""

    block: Block
    coordinates: Array | None
    weights: NDArray[np.float64]


def parcel_positions(coordinates: Array | None, parcel: Parcel, spacing: float) -> NDArray[np.float64] | None:
    """Positions of a parcel's units in spacings; None without positions."""
    return None if coordinates is None else np.asarray(coordinates[parcel.units], dtype=np.float64) / spacing


def stack_moments(
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

    Some people are left out in turn; the others' template predicts each of their responses to a stimulus from their other stimuli (exact
    leave-one-out), and the candidate with the highest correlation, pooled over some parcels, is taken. The weights of the stack are by
    least squares on the same predictions.

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
    if members[0] == "srm":
        return _choose_shared_dimensions(parts, options, n_stimuli, compute)
    left_out = _people_to_leave_out(parts, options.tuning_people)
    setting = Setting()
    for name in members:
        setting = _choose_family(name, parts, left_out, options, setting, n_stimuli, compute)
    return replace(setting, weights=_pooled_weights(members, parts, left_out, options, setting, compute))


def _people_to_leave_out(parts: Sequence[_Part], count: int) -> list[int]:
    """People spread evenly over the range of likeness to the rest: an order that depends on the data alone."""
    n_people = parts[0].block.n_people
    likeness = np.zeros(n_people)
    for part in parts:
        if len(set(np.diff(part.block.edges))) > 1:
            grams = [part.block.person(i) @ part.block.person(i).T for i in range(n_people)]
            likeness += [float((gram * np.sum(grams, axis=0)).sum()) / max(float(np.linalg.norm(gram)), 1e-9) for gram in grams]
            continue
        grid = part.block.grid()
        total = grid.sum(axis=1)
        likeness += [float((grid[:, i] * (total - grid[:, i])).sum()) for i in range(n_people)]
    order = np.argsort(likeness, kind="stable")
    places = (np.arange(min(count, n_people)) + 0.5) / min(count, n_people) * n_people
    return [int(order[int(place)]) for place in places]


def _choose_shared_dimensions(parts: Sequence[_Part], options: AlignOptions, n_stimuli: int, compute: Compute) -> Setting:
    order = np.random.default_rng(options.seed).permutation(n_stimuli)
    folds = [order[start::N_FOLDS] for start in range(N_FOLDS)]
    smallest = min(int(np.diff(part.block.edges).min()) for part in parts)
    scores = {}
    for k in options.candidates(n_stimuli * (N_FOLDS - 1) // N_FOLDS):
        if k > smallest:
            continue

        def score(part: _Part, k: int = k) -> float:
            people = [part.block.person(i) for i in range(part.block.n_people)]
            return float(np.nanmean(score_dimensions(people, part.block.seen, k, folds, options.n_sweeps)))

        scores[k] = float(np.mean(map_blocks(score, parts, compute)))
    best = max(scores, key=lambda k: scores[k]) if scores else smallest
    return Setting({"srm": best}, weights={"srm": 1.0}, scores={f"srm, {k} dimensions": value for k, value in scores.items()})


def _choose_family(
    name: str, parts: Sequence[_Part], left_out: Sequence[int], options: AlignOptions, setting: Setting, n_stimuli: int, compute: Compute
) -> Setting:
    """Dimensions and width of one family; for the kernel first these, then the kernel."""
    ks = options.candidates(n_stimuli) if name in GAUSSIAN else (0,)
    kernels = options.kernels if name == "kernel" else ((0.0, 0.0),)
    middle = kernels[len(kernels) // 2]
    candidates = [Candidate(name, k, 0.0, middle) for k in ks]
    found = _score_candidates(candidates, parts, left_out, options, compute)
    if len(kernels) > 1:
        best = max(found, key=lambda each: found[each])
        others = [Candidate(name, best.dimensions, 0.0, kernel) for kernel in kernels if kernel != middle]
        found |= _score_candidates(others, parts, left_out, options, compute)
    best = max(found, key=lambda each: found[each])
    described = {_describe(each): value for each, value in found.items()}
    return replace(
        setting,
        dimensions=setting.dimensions | ({name: best.dimensions} if best.dimensions else {}),
        widths=setting.widths | {name: best.width},
        kernel=best.kernel if name == "kernel" else setting.kernel,
        scores=setting.scores | described,
    )


def _describe(candidate: Candidate) -> str:
    parts = [candidate.family]
    if candidate.dimensions:
        parts.append(f"{candidate.dimensions} dimensions")
    if candidate.family == "kernel":
        parts.append(f"kernel {candidate.kernel[0]:g} / {candidate.kernel[1]:g}")
    return ", ".join([*parts, f"smoothing {candidate.width:g}"])


def _score_candidates(
    candidates: Sequence[Candidate], parts: Sequence[_Part], left_out: Sequence[int], options: AlignOptions, compute: Compute
) -> dict[Candidate, float]:
    """Mean correlation of each candidate at each width."""
    spatial = parts[0].coordinates is not None
    widths = options.widths if spatial else (0.0,)

    def score(job: tuple[_Part, int]) -> NDArray[np.float64]:
        part, person = job
        rows = np.zeros((len(candidates), len(widths)))
        predictions, observed = _left_out_predictions(candidates, part, person, options)
        for i, predicted in enumerate(predictions):
            for j, width in enumerate(widths):
                smooth = predicted @ smoothing_kernel(part.coordinates, width, predicted.shape[1])
                rows[i, j] = _mean_correlation(smooth, observed, part)
        return rows

    jobs = [(part, person) for part in parts for person in left_out]
    mean = np.mean(map_blocks(score, jobs, compute), axis=0)
    return {replace(each, width=width): float(mean[i, j]) for i, each in enumerate(candidates) for j, width in enumerate(widths)}


def _mean_correlation(predicted: Array, observed: Array, part: _Part) -> float:
    correlation = correlate_columns(predicted, observed)
    weights = part.weights if len(part.weights) == len(correlation) else np.ones(len(correlation))
    known = np.isfinite(correlation) & (weights > 0)
    return float(np.average(correlation[known], weights=weights[known])) if known.any() else 0.0


def _left_out_predictions(candidates: Sequence[Candidate], part: _Part, person: int, options: AlignOptions) -> tuple[list[Array], Array]:
    """Leave-one-out predictions of one person by templates of the others, and what was measured."""
    others = part.block.select([i for i in range(part.block.n_people) if i != person])
    own = part.block.select([person])
    covered = others.seen.any(axis=0)
    start = None
    if any(each.family in GAUSSIAN for each in candidates):
        start = start_scores(others, max(each.dimensions for each in candidates))
    predictions: list[Array] = []
    for candidate in candidates:
        # one other person alone has no mean map to deviate from: the zero-mean prior stands in
        usable = replace(candidate, family="zero") if others.n_people < 2 and candidate.family in GAUSSIAN else candidate
        template, _ = fit_family(replace(usable, width=0.0), others, part.coordinates, options, start)
        left_out = fit_member(replace(usable, width=0.0), template, own, part.coordinates, options, covered)[1]
        assert left_out is not None
        predictions.append(left_out)
    return predictions, own.values[own.seen[0] & covered]


def _pooled_weights(
    members: Sequence[str], parts: Sequence[_Part], left_out: Sequence[int], options: AlignOptions, setting: Setting, compute: Compute
) -> dict[str, float]:
    if len(members) == 1:
        return {members[0]: 1.0}
    candidates = [Candidate(name, setting.dimensions.get(name, 0), setting.widths[name], setting.kernel) for name in members]

    def moments(job: tuple[_Part, int]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        part, person = job
        predictions, observed = _left_out_predictions(candidates, part, person, options)
        smooth = [
            each @ smoothing_kernel(part.coordinates, candidate.width, each.shape[1])
            for each, candidate in zip(predictions, candidates, strict=True)
        ]
        return stack_moments(smooth, observed, part.weights)

    found = map_blocks(moments, [(part, person) for part in parts for person in left_out], compute)
    gram, moment = np.sum([each for each, _ in found], axis=0), np.sum([each for _, each in found], axis=0)
    weights = stack_weights(gram[None], moment[None])[0]
    return {name: float(value) for name, value in zip(members, weights, strict=True)}
