"""What a user chooses, and what is then chosen from the data."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["FAMILIES", "LARGEST_SHARE", "METHODS", "AlignOptions", "Setting"]

METHODS = ("stack", "psrm", "srm", "procrustes", "ridge", "none")
"""Methods; `stack` is the default."""
FAMILIES = ("anatomy", "zero", "group", "kernel")
"""Members of the stack: smoothed anatomy, and probabilistic shared responses with a zero-mean, a group-map and a spatial-kernel prior."""

LARGEST_SHARE = 0.8
"""Shared dimensions, as a share of the number of stimuli, at most."""


@dataclass(frozen=True)
class AlignOptions:
    """How people are aligned.

    Attributes
    ----------
    method : str
        One of `METHODS`. ``none`` is anatomy: the same unit of other people, smoothed by as much as predicts best.
    prior : {'zero', 'group', 'kernel'}
        Prior of the maps of method ``psrm``.
    families : tuple of str
        Members of the stack; leaving ``kernel`` out makes it about half as fast again.
    dimensions : tuple of int
        Numbers of shared dimensions tried (psrm, srm, stack), each cut to .8 of the number of stimuli.
    widths : tuple of float
        Standard deviations of the smoothing of predictions tried, in multiples of the spacing of units.
    kernels : tuple of (float, float)
        Spatial kernels tried: standard deviation (in spacings) and share of variance without spatial structure.
    alphas : tuple of float
        Penalties tried by ``ridge``, as multiples of the mean squared singular value.
    n_sweeps : int
        Sweeps of variational EM (psrm) or alternations (srm).
    n_iterations : int
        Template iterations of ``procrustes``.
    scaling : bool
        ``procrustes``: also one scale a parcel. It makes the map a similarity, and shrinks noisy people.
    z_score : bool
        Standardise each unit over the stimuli of the fit; False only makes sense for ``procrustes`` and ``srm``.
    tuning_parcels : int
        Parcels used, spread over all, to choose dimensions, widths, kernel and the weights of the template's people.
    minimum_stimuli : int
        With fewer stimuli than this the stack is smoothed anatomy alone.
    seed : int
        Of the folds of cross-validation.
    """

    method: str = "stack"
    prior: str = "zero"
    families: tuple[str, ...] = FAMILIES
    dimensions: tuple[int, ...] = (5, 10, 20, 35, 50)
    widths: tuple[float, ...] = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0)
    kernels: tuple[tuple[float, float], ...] = ((1.5, 0.05), (2.5, 0.05), (1.5, 0.4))
    alphas: tuple[float, ...] = (0.01, 0.1, 0.3, 1.0, 3.0, 10.0, 100.0)
    n_sweeps: int = 15
    n_iterations: int = 2
    scaling: bool = False
    z_score: bool = True
    tuning_parcels: int = 12
    minimum_stimuli: int = 20
    seed: int = 0

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"method {self.method!r} is none of {', '.join(METHODS)}")
        if self.prior not in FAMILIES[1:]:
            raise ValueError(f"prior {self.prior!r} is none of {', '.join(FAMILIES[1:])}")
        unknown = set(self.families) - set(FAMILIES)
        if unknown or "anatomy" not in self.families:
            raise ValueError(f"families {self.families} must be of {', '.join(FAMILIES)}, anatomy among them")

    def members(self, n_stimuli: int) -> tuple[str, ...]:
        """Families that the method fits, given the number of stimuli."""
        if self.method == "none" or (self.method == "stack" and n_stimuli < self.minimum_stimuli):
            return ("anatomy",)
        if self.method == "stack":
            return tuple(name for name in FAMILIES if name in self.families)
        return (self.prior,) if self.method == "psrm" else (self.method,)

    def candidates(self, n_stimuli: int) -> tuple[int, ...]:
        """Numbers of dimensions to try with so many stimuli: few stimuli want as many as they allow."""
        most = max(1, int(LARGEST_SHARE * n_stimuli))
        return tuple(sorted({min(k, most) for k in self.dimensions}))


@dataclass(frozen=True)
class Setting:
    """What is chosen from the training stimuli, once for all parcels; a setting given to `fit_template` saves the choosing.

    Attributes
    ----------
    dimensions : dict of str to int
        Shared dimensions of each family (psrm, srm).
    widths : dict of str to float
        Smoothing of each family's predictions, in spacings.
    kernel : (float, float)
        Spatial kernel of family ``kernel``.
    weights : dict of str to float
        Weight of each family, pooled over parcels and people: of people of the template.
    scores : dict of str to float
        Cross-validated correlation of each candidate tried, by a readable name; empty where nothing was tried.
    """

    dimensions: dict[str, int] = field(default_factory=dict)
    widths: dict[str, float] = field(default_factory=dict)
    kernel: tuple[float, float] = (1.5, 0.05)
    weights: dict[str, float] = field(default_factory=dict)
    scores: dict[str, float] = field(default_factory=dict)
