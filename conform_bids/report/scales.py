"""From values to colours: continuous scales with a colour bar, and categories with a legend."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.colors import Colormap

__all__ = ["Scale", "robust_limit"]


@dataclass(frozen=True)
class Scale:
    """How values become colours.

    Attributes
    ----------
    label : str
        Quantity and unit, beside the colour bar.
    low, high : float
        Values at the ends of the colour map.
    colour_map : str
        Matplotlib's name; one that colour-blind readers can follow.
    floor : float or None
        Values below it are left transparent, so that the anatomy shows; None colours all finite values.
    start : float
        Fraction of the colour map's dark end that is not used, so that low values stand out from a dark page.
    categories : tuple of (str, str)
        Name and colour of each category where values are 0, 1, ...; a legend takes the place of the colour bar.
    extends_below : bool
        Whether there are values below ``low``, which have its colour: the colour bar ends in an arrow.
    """

    label: str
    low: float = 0.0
    high: float = 1.0
    colour_map: str = "inferno"
    floor: float | None = None
    start: float = 0.0
    categories: tuple[tuple[str, str], ...] = ()
    extends_below: bool = False

    def colour_map_used(self) -> Colormap:
        """The part of the colour map that is used."""
        import matplotlib
        from matplotlib.colors import ListedColormap

        return ListedColormap(matplotlib.colormaps[self.colour_map](np.linspace(self.start, 1, 256)))

    def colours(self, values: NDArray[np.floating]) -> NDArray[np.float64]:
        """RGBA of each value, shape ``values.shape + (4,)``; transparent for NaN and for what is below the floor."""
        from matplotlib.colors import to_rgba_array

        finite = np.isfinite(values)
        shown = finite if self.floor is None else finite & (np.where(finite, values, -np.inf) >= self.floor)
        filled = np.where(shown, values, self.low)
        if self.categories:
            table = to_rgba_array([colour for _, colour in self.categories])
            rgba = table[np.clip(filled.astype(int), 0, len(table) - 1)]
        else:
            span = self.high - self.low
            rgba = self.colour_map_used()(np.clip((filled - self.low) / (span if span > 0 else 1.0), 0, 1))
        rgba = np.array(rgba, dtype=np.float64)
        rgba[..., 3] = np.where(shown, rgba[..., 3], 0.0)
        return rgba


def robust_limit(values: NDArray[np.floating], percentile: float = 99.5, *, most: float = np.inf) -> float:
    """A round number at or above a percentile of the finite values, for the end of a scale (1 where there are none)."""
    finite = np.asarray(values)[np.isfinite(values)]
    limit = float(np.percentile(finite, percentile)) if finite.size else 1.0
    if limit <= 0:
        return 1.0
    magnitude = 10.0 ** np.floor(np.log10(limit))
    steps = np.array([1, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10]) * magnitude
    return float(min(most, steps[np.searchsorted(steps, limit * (1 - 1e-9))]))
