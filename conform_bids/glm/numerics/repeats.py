"""How well repeats of a condition predict each other: standardisation and sums over pairs that both cross-validations share."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch

from conform_bids.glm.numerics.design import Design
from conform_bids.numerics.compute import to_tensor
from conform_bids.numerics.folds import RepeatPairs

__all__ = ["RepeatScorer"]

BoolArray = npt.NDArray[np.bool_]


class RepeatScorer:
    """Standardises betas, and sums over the pairs of trials that predict each other.

    Parameters
    ----------
    design : Design
        Trials and runs.
    pairs : RepeatPairs
        Which trials predict which.
    device : str
        Where betas are.
    """

    def __init__(self, design: Design, pairs: RepeatPairs, device: str) -> None:
        sessions = design.session[design.run]
        self.weights = to_tensor(pairs.n_partners, device)
        self.test_weights = to_tensor(pairs.test_counts, device)
        matrix = pairs.partner_matrix.tocsr()  # type: ignore[attr-defined]
        matrix.sum_duplicates()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
            self.partners = torch.sparse_csr_tensor(
                torch.from_numpy(matrix.indptr.astype(np.int64)),
                torch.from_numpy(matrix.indices.astype(np.int64)),
                torch.from_numpy(matrix.data.astype(np.float32)),
                size=matrix.shape,
                check_invariants=True,
            ).to(device)
        self._sessions = {
            int(session): (_rows(sessions == session, device), _rows((sessions == session) & design.train, device))
            for session in np.unique(design.session)
        }

    def standardise(self, betas: torch.Tensor) -> tuple[torch.Tensor, dict[int, torch.Tensor], dict[int, torch.Tensor]]:
        """z-scores (n_trials, n_units) by session, and the mean and 1/SD of each session (0 where the SD is 0)."""
        means, inverses = {}, {}
        for session, (_, train) in self._sessions.items():
            part = betas[train]
            mean = part.mean(0) if len(part) else torch.zeros_like(betas[0])
            # sums of squares, as torch.std and norms are several times slower over rows
            deviation = ((part - mean).square_().sum(0) / max(len(part) - 1, 1)).sqrt_()
            means[session], inverses[session] = mean, torch.where(deviation > 0, 1 / deviation, torch.zeros_like(deviation))
        return self.scale(betas, means, inverses), means, inverses

    def scale(self, betas: torch.Tensor, means: Mapping[int, torch.Tensor], inverses: Mapping[int, torch.Tensor]) -> torch.Tensor:
        """Betas less the mean of their session, times its 1/SD."""
        z = torch.empty_like(betas)
        for session, (own, _) in self._sessions.items():
            z[own] = (betas[own] - means[session]).mul_(inverses[session])
        return z

    def targets(self, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Sum of each trial's partners (n_trials, n_units), and the constant of the error (n_units,)."""
        return self.partners @ z, z.square().mul_(self.test_weights[:, None]).sum(0)

    def shift_targets(self, targets: torch.Tensor, shifts: Mapping[int, torch.Tensor]) -> torch.Tensor:
        """Let targets g (n_trials, n_units), in place, be those of betas that have not been centred, and give their part of the constant.

        With x = b - h, h the shift of each session (n_units,), w x^2 - 2 g x is w b^2 - 2 (g + w h) b + h (2 g + w h).
        """
        constant = torch.zeros_like(targets[0])
        for session, shift in shifts.items():
            own, _ = self._sessions[session]
            weights, part = self.weights[own], targets[own]
            constant += shift * (2 * part.sum(0) + weights.sum() * shift)
            targets[own] = torch.addcmul(part, weights[:, None], shift)
        return constant


def _rows(chosen: BoolArray, device: str) -> slice | torch.Tensor:
    """Rows as a slice, which copies nothing, where they follow each other; else as numbers."""
    rows = np.flatnonzero(chosen)
    if len(rows) == 0 or rows[-1] - rows[0] == len(rows) - 1:
        return slice(int(rows[0]), int(rows[-1]) + 1) if len(rows) else slice(0, 0)
    return torch.from_numpy(rows).to(device)
