"""How a store is made; kept in its manifest, so that what is added later is made alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from conform_bids.errors import UsageError
from conform_bids.store.catalogue import Sameness
from conform_bids.store.inputs import SOURCES

__all__ = ["StoreSettings"]


@dataclass(frozen=True)
class StoreSettings:
    """Settings of a store.

    Attributes
    ----------
    source : {'glm', 'psn', 'align'}
        Whose betas: single trials, denoised responses to conditions, or aligned ones.
    zscore : {'fit', 'session'}
        Trials that are z-scored together: those of a fit (of a session, where fits are by session), or those of a session within a fit.
    sameness : Sameness
        Which stimuli count as the same.
    test_fraction : float
        Share of the stimuli without any mark that is drawn for test.
    seed : int
        Of the draw.
    leaky_fits : {'mark', 'refuse'} or None
        What to do with betas whose own fit could use a stimulus that is held out here; None marks those of conform-glm, which never see
        another trial's stimulus but for choosing regressors, and refuses others.
    name : str
        Of the store.
    license : str or None
        Under which the whole may be used; each dataset's own is kept beside it.

    Raises
    ------
    UsageError
        For a value out of range.
    """

    source: str = "glm"
    zscore: str = "fit"
    sameness: Sameness = field(default_factory=Sameness)
    test_fraction: float = 0.0
    seed: int = 0
    leaky_fits: str | None = None
    name: str = "conform store"
    license: str | None = None

    def __post_init__(self) -> None:
        for label, value, choices in (
            ("source", self.source, tuple(SOURCES)),
            ("zscore", self.zscore, ("fit", "session")),
            ("leaky_fits", self.leaky_fits, ("mark", "refuse", None)),
        ):
            if value not in choices:
                raise UsageError(f"{label}: {value!r} is not one of {', '.join(map(str, choices))}")
        if not 0 <= self.test_fraction < 1:
            raise UsageError(f"a test fraction of {self.test_fraction}; from 0 to below 1 is possible")

    @property
    def refuses_leaky_fits(self) -> bool:
        """Whether betas that were fitted on what is held out here are refused."""
        return self.leaky_fits == "refuse" or (self.leaky_fits is None and self.source != "glm")

    def to_mapping(self) -> dict[str, Any]:
        """Plain values, for the manifest."""
        return asdict(self)

    @classmethod
    def from_mapping(cls, content: Mapping[str, Any]) -> StoreSettings:
        """What `to_mapping` gave."""
        return cls(**{**content, "sameness": Sameness(**content["sameness"])})
