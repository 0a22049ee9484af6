"""Names of the models, and which of them a design allows."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["feasible_models"]


def feasible_models(
    models: Sequence[str], *, can_cross_validate: bool, pcs_stop: float, n_fractions: int
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Models that the design allows, and a note for each that it does not.

    The model conform can always be fitted, without noise regressors where their number cannot be found. Denoising needs a condition
    that repeats over cross-validation folds, unless ``pcs_stop`` fixes the number of regressors; the ridge needs one unless its
    fraction is fixed. What cannot be done falls back to the best model below it.
    """
    count_known = can_cross_validate or pcs_stop <= 0
    fraction_known = can_cross_validate or n_fractions == 1
    feasible: list[str] = []
    notes: list[str] = []
    for model in models:
        denoised = model in ("fithrfdenoise", "fithrfdenoiserr")
        possible = not denoised or (count_known and (model == "fithrfdenoise" or fraction_known))
        fallback = "fithrfdenoise" if model == "fithrfdenoiserr" and count_known else "fithrf"
        if not possible:
            notes.append(
                f"{model} was not fitted: no condition repeats over the cross-validation folds, so there is nothing to choose its "
                f"settings by; {fallback} was fitted instead"
            )
        chosen = model if possible else fallback
        feasible += [] if chosen in feasible else [chosen]
    return tuple(feasible), tuple(notes)
