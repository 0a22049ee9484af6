"""Families of models in one parcel: what a template holds of them, and each person's map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from conform_bids.align.numerics.data import Block
from conform_bids.align.numerics.gaussian import GaussianFit, MapPrior, fit_gaussian, fit_map, person_information
from conform_bids.align.numerics.kernels import SpatialBasis, smoothing_kernel, spatial_basis
from conform_bids.align.numerics.maps import FamilyTemplate, SharedMap
from conform_bids.align.numerics.options import LARGEST_SHARE, AlignOptions, Setting
from conform_bids.align.numerics.procrustes import procrustes, procrustes_template
from conform_bids.align.numerics.ridge import ridge_map
from conform_bids.align.numerics.shared_response import fit_shared_response, orthonormal_map, principal_scores

__all__ = ["GAUSSIAN", "Candidate", "families_for", "family_weights", "fit_family", "fit_member", "start_scores"]

Array = NDArray[np.floating]
GAUSSIAN = ("zero", "group", "kernel")
"""Families of probabilistic shared responses."""


@dataclass(frozen=True)
class Candidate:
    """A family with what it needs to know.

    Attributes
    ----------
    family : str
    dimensions : int
        Shared dimensions; 0 where the family has none to choose.
    width : float
        Smoothing of predictions, in spacings.
    kernel : (float, float)
    """

    family: str
    dimensions: int = 0
    width: float = 0.0
    kernel: tuple[float, float] = (1.5, 0.05)


def families_for(options: AlignOptions, setting: Setting, n_stimuli: int, spatial: bool) -> tuple[Candidate, ...]:
    """The families of a method that a setting gives weight; without positions there is no kernel."""
    members = options.members(n_stimuli)
    possible = tuple(name for name in members if spatial or name != "kernel") or ("zero",)
    kept = tuple(name for name in possible if setting.weights.get(name, 1.0) > 0) or possible[:1]
    most = max(1, int(LARGEST_SHARE * n_stimuli))
    return tuple(
        Candidate(name, min(setting.dimensions.get(name, 0), most), setting.widths.get(name, 0.0) if spatial else 0.0, setting.kernel)
        for name in kept
    )


def family_weights(candidates: Sequence[Candidate], setting: Setting) -> dict[str, float]:
    """Weight of each family under a setting; equal ones where it says nothing."""
    return {each.family: setting.weights.get(each.family, 1 / len(candidates)) for each in candidates}


def start_scores(block: Block, k: int) -> NDArray[np.float64]:
    """Leading components of all people's units, each over the root of its noise variance, (n_stimuli, k)."""
    weighted = block.values * np.sqrt(block.precision)
    return principal_scores(weighted @ weighted.T, k)


def fit_family(
    candidate: Candidate, block: Block, coordinates: Array | None, options: AlignOptions, start: Array | None = None
) -> tuple[FamilyTemplate, list[SharedMap]]:
    """Fit one family to all people of a parcel.

    Parameters
    ----------
    candidate : Candidate
    block : Block
    coordinates : (n_units, n_dimensions) array or None
        In spacings.
    options : AlignOptions
    start : (n_stimuli, >= k) array, optional
        `start_scores`, where they are at hand.

    Returns
    -------
    template : FamilyTemplate
    maps : list of SharedMap
        One a person.
    """
    if candidate.family in GAUSSIAN:
        begin = start_scores(block, candidate.dimensions) if start is None else start[:, : candidate.dimensions]
        return _gaussian_template(candidate, block, coordinates, options, begin)
    fit = {"anatomy": _anatomy_template, "procrustes": _procrustes_template, "srm": _shared_response_template, "ridge": _ridge_template}
    return fit[candidate.family](candidate, block, coordinates, options)


def fit_member(
    candidate: Candidate,
    template: FamilyTemplate,
    block: Block,
    coordinates: Array | None,
    options: AlignOptions,
    covered: NDArray[np.bool_],
) -> SharedMap:
    """Fit one new person (a block of one) to a family's template.

    Parameters
    ----------
    candidate, coordinates, options
        As in `fit_family`.
    template : FamilyTemplate
    block : Block
        Of one person.
    covered : (n_stimuli,) bool array
        Stimuli that somebody of the template saw.
    """
    rows = block.seen[0] & covered
    if candidate.family in GAUSSIAN:
        return _gaussian_member(candidate, template, block, coordinates, rows)
    values, scores = block.values[rows], template.scores[rows]
    if candidate.family == "anatomy":
        kernel = smoothing_kernel(coordinates, candidate.width, values.shape[1])
        return SharedMap(None, None, kernel)
    if candidate.family == "procrustes":
        return _rotation_map(*procrustes(values, scores, options.scaling))
    if candidate.family == "srm":
        weights = orthonormal_map(values, scores).astype(np.float32)
        return SharedMap(weights, None, np.ascontiguousarray(weights.T))
    decode = ridge_map(scores, values, options.alphas)
    return SharedMap(None, None, decode, ridge_map(values, scores, options.alphas))


def _mean_over_people(block: Block, leave: int | None = None) -> NDArray[np.float32]:
    """Mean of the same unit over the people who have it and saw the stimulus; 0 where nobody did."""
    held = (block.precision > 0).reshape(block.n_people, -1).astype(np.float32)
    seen = block.seen.astype(np.float32)
    grid = block.grid()
    keep = np.array([i for i in range(block.n_people) if i != leave])
    total = grid[:, keep].sum(axis=1)
    counts = seen[keep].T @ held[keep]
    mean: NDArray[np.float32] = (total / np.maximum(counts, 1)).astype(np.float32)
    return mean


def _anatomy_template(
    candidate: Candidate, block: Block, coordinates: Array | None, options: AlignOptions
) -> tuple[FamilyTemplate, list[SharedMap]]:
    mean = _mean_over_people(block)
    kernel = smoothing_kernel(coordinates, candidate.width, mean.shape[1])
    return FamilyTemplate(mean, kernel, n_people=block.n_people), [SharedMap(None, None, kernel)] * block.n_people


def _rotation_map(rotation: Array, scale: float) -> SharedMap:
    return SharedMap((scale * rotation).astype(np.float32), None, np.ascontiguousarray(rotation.T / scale, dtype=np.float32))


def _procrustes_template(
    candidate: Candidate, block: Block, coordinates: Array | None, options: AlignOptions
) -> tuple[FamilyTemplate, list[SharedMap]]:
    people = [block.person(i) for i in range(block.n_people)]
    template, maps = procrustes_template(people, block.seen, options.n_iterations, options.scaling)
    return FamilyTemplate(template, None, n_people=block.n_people), [_rotation_map(*each) for each in maps]


def _shared_response_template(
    candidate: Candidate, block: Block, coordinates: Array | None, options: AlignOptions
) -> tuple[FamilyTemplate, list[SharedMap]]:
    people = [block.person(i) for i in range(block.n_people)]
    k = min(candidate.dimensions, *np.diff(block.edges))
    scores, weights = fit_shared_response(people, block.seen, k, options.n_sweeps)
    same = len(set(np.diff(block.edges))) == 1
    group = np.mean(weights, axis=0).T.astype(np.float32) if same else None
    maps = [SharedMap(w.astype(np.float32), None, np.ascontiguousarray(w.T, dtype=np.float32)) for w in weights]
    return FamilyTemplate(scores, group, n_people=block.n_people), maps


def _ridge_template(
    candidate: Candidate, block: Block, coordinates: Array | None, options: AlignOptions
) -> tuple[FamilyTemplate, list[SharedMap]]:
    maps = []
    for i in range(block.n_people):
        others = _mean_over_people(block, leave=i) if block.n_people > 1 else _mean_over_people(block)
        rows = block.seen[i] & np.delete(block.seen, i, axis=0).any(axis=0) if block.n_people > 1 else block.seen[i]
        own, others = block.person(i)[rows], others[rows]
        maps.append(SharedMap(None, None, ridge_map(others, own, options.alphas), ridge_map(own, others, options.alphas)))
    return FamilyTemplate(_mean_over_people(block), None, n_people=block.n_people), maps


def _rotate(block: Block, basis: SpatialBasis) -> Block:
    """Columns in the eigenbasis of a spatial kernel, with one noise level a person: white noise stays white there."""
    values = (block.grid() @ basis.vectors).reshape(len(block.values), -1)
    precision = block.precision.reshape(block.n_people, -1)
    held = precision > 0
    noise = np.where(held, 1 / np.where(held, precision, 1), 0).sum(axis=1) / np.maximum(held.sum(axis=1), 1)
    level = np.where(held.any(axis=1), 1 / np.maximum(noise, 1e-6), 0)
    level = level * held.mean(axis=1)  # units that are set aside say nothing: they thin out the information of every direction
    return Block(values, block.seen, np.repeat(level, precision.shape[1]).astype(block.precision.dtype), block.edges)


def _gaussian_template(
    candidate: Candidate, block: Block, coordinates: Array | None, options: AlignOptions, start: Array
) -> tuple[FamilyTemplate, list[SharedMap]]:
    basis, kappa, rotated = None, None, block
    if candidate.family == "kernel":
        assert coordinates is not None
        basis = spatial_basis(coordinates, candidate.kernel)
        kappa, rotated = basis.values, _rotate(block, basis)
    fit = fit_gaussian(rotated, start, candidate.family, kappa, options.n_sweeps)
    smoothing = smoothing_kernel(coordinates, candidate.width, int(block.edges[1]))
    maps = [_gaussian_map(fit, rotated, i, basis, smoothing) for i in range(block.n_people)]
    group = None
    if len(set(np.diff(block.edges))) == 1:
        mean = fit.weights.reshape(len(fit.weights), block.n_people, -1).mean(axis=1)
        group = (mean if basis is None else mean @ basis.vectors.T).astype(np.float32)
    template = FamilyTemplate(fit.scores, group, 1.0, fit.covariances, fit.patterns, fit.prior.covariance, fit.prior.mean, block.n_people)
    return template, maps


def _gaussian_map(fit: GaussianFit, block: Block, person: int, basis: SpatialBasis | None, smoothing: Array) -> SharedMap:
    weights = fit.weights[:, block.edges[person] : block.edges[person + 1]]
    return _map_of_weights(weights, block.person_precision(person), fit.information[person], basis, smoothing)


def _map_of_weights(weights: Array, precision: Array, information: Array, basis: SpatialBasis | None, smoothing: Array) -> SharedMap:
    encode, decode = (weights * precision).T, weights
    if basis is not None:
        encode, decode = basis.vectors @ encode, decode @ basis.vectors.T
    if decode.shape[1] == len(smoothing):
        decode = decode @ smoothing
    return SharedMap(np.ascontiguousarray(encode, np.float32), information, np.ascontiguousarray(decode, np.float32))


def _gaussian_member(
    candidate: Candidate, template: FamilyTemplate, block: Block, coordinates: Array | None, rows: NDArray[np.bool_]
) -> SharedMap:
    assert template.covariances is not None and template.patterns is not None and template.map_covariance is not None
    basis, kappa, rotated = None, None, block
    if candidate.family == "kernel":
        assert coordinates is not None
        basis = spatial_basis(coordinates, candidate.kernel)
        kappa, rotated = basis.values, _rotate(block, basis)
    factor = 1.0 if candidate.family == "zero" else 1 + 1 / template.n_people
    prior = MapPrior(template.map_covariance * factor, template.map_mean, kappa)
    known = (template.scores, template.covariances, template.patterns)
    posterior = fit_map(known, rotated.values, rows, rotated.precision, prior)
    information = person_information(posterior, rotated.precision)
    smoothing = smoothing_kernel(coordinates, candidate.width, rotated.values.shape[1])
    return _map_of_weights(posterior.weights, rotated.precision, information, basis, smoothing)
