"""Every option of conform-glm, once: a field is a flag, a TOML key and a Boutiques input."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from conform_bids.errors import UsageError
from conform_bids.options import option, options_of, validate

__all__ = ["MODELS", "GLMSettings"]

MODELS = ("assumehrf", "fithrf", "fithrfdenoise", "fithrfdenoiserr", "conform")
"""The models by name, GLMsingle's types A to D and ours; each is the ``desc`` of its files."""

DEFAULT_MODELS = ("conform",)
GLMSINGLE_MODELS = ("fithrf", "fithrfdenoiserr")
"""Fitted by default where GLMsingle is reproduced or does the work."""
DENOISED_MODELS = frozenset({"fithrfdenoise", "fithrfdenoiserr", "conform"})

_EVENTS = "events and design"
_MODEL = "model"
_DENOISE = "denoising and regularisation"
_FIT = "fits and cross-validation"
DEFAULT_FRACTIONS = tuple(round(1 - 0.05 * step, 2) for step in range(20))


@dataclass(frozen=True)
class GLMSettings:
    """Settings of a conform-glm run.

    Raises
    ------
    UsageError
        When a value is out of range or two options contradict each other.
    """

    model: tuple[str, ...] = option(
        (),
        "Models to fit; each gives its own maps. conform: noise regressors and serial correlation out first, then the HRF, then shrinkage "
        "towards the unit's own mean, without labels. GLMsingle's: assumehrf (type A): one HRF for all units; fithrf (B): each unit's HRF "
        "from the library; fithrfdenoise (C): and noise regressors; fithrfdenoiserr (D): and fractional ridge regression (default: "
        "conform; with --compat or --engine glmsingle: fithrf fithrfdenoiserr).",
        choices=MODELS,
        group=_MODEL,
    )
    compat: str | None = option(
        None,
        "Reproduce GLMsingle number for number: onsets rounded to volumes, StartTime ignored, one stimulus duration, user regressors "
        "left out where it leaves them out. Without it, onsets keep their exact time and user regressors are in every model.",
        choices=("glmsingle",),
        const="glmsingle",
        group=_MODEL,
    )
    engine: str = option(
        "conform",
        "What computes the fit: conform, or the GLMsingle package itself where it is installed.",
        choices=("conform", "glmsingle"),
        group=_MODEL,
    )
    units: str = option(
        "percent",
        "Units of the betas: percent signal change, or the units of the BOLD series.",
        choices=("percent", "raw"),
        group=_MODEL,
    )
    hrf_library: Path | None = option(
        None,
        "HRF library, a TSV. With a column `time` (s): responses to a brief stimulus, one a column, convolved with the stimulus "
        "duration here. Numbers only: sampled at the repetition time and already convolved, as GLMsingle's hrflibrary.",
        group=_MODEL,
    )
    assumed_hrf: Path | None = option(
        None,
        "The HRF of assumehrf and of the on/off model, a TSV in either form of --hrf-library, with one curve.",
        group=_MODEL,
    )
    lss: bool = option(
        False,
        "Estimate the betas of fithrf one trial at a time against all others (least squares separate).",
        group=_MODEL,
    )
    polynomial_degree: int | None = option(
        None,
        "Degree of the drift polynomials of each run (default: half the run's minutes, rounded).",
        minimum=0,
        maximum=30,
        group=_MODEL,
    )

    condition_column: str | None = option(
        None,
        "Column of the events that names the stimulus (default: the first of stim_id, stim_file, trial_type that is there).",
        group=_EVENTS,
    )
    dataset_config: Path | None = option(
        None,
        "Description of the dataset, a YAML file: where its events name the stimulus, what to leave out, shift of onsets, durations, which "
        "trials are test, and which runs are fitted together. Those of eight public datasets come with conform.",
        group=_EVENTS,
    )
    trial_filter: str | None = option(
        None,
        "Keep only the events for which this holds: comparisons, `in`, `and`, `or`, `not` over columns, as "
        "\"trial_type == 'image' and response_time < 2\".",
        metavar="EXPR",
        group=_EVENTS,
    )
    nuisance_events: tuple[str, ...] = option(
        (),
        "Trial types that are modelled as nuisance, one regressor each a run, and get no beta.",
        metavar="TYPE",
        group=_EVENTS,
    )
    stimulus_duration: float | None = option(
        None,
        "Duration of every stimulus, in place of the events' own.",
        unit="s",
        minimum=0,
        metavar="S",
        group=_EVENTS,
    )
    confounds: tuple[str, ...] = option(
        (),
        "Columns of fMRIPrep's confounds to regress out; wildcards are allowed ('trans_*'). None by default, as the noise regressors "
        "are learned from the data.",
        metavar="NAME",
        group=_EVENTS,
    )
    split: str | None = option(
        None,
        "Which stimuli are train and test: a column of the events, or a TSV with columns stim_id and split (default: the column "
        "`split` where the events have one). Cross-validation uses train only.",
        metavar="COLUMN|FILE",
        group=_EVENTS,
    )

    n_pcs: int = option(10, "Largest number of noise regressors to try.", minimum=0, maximum=100, group=_DENOISE)
    pcs_stop: float = option(
        1.05,
        "Stop adding noise regressors once within this factor of the best cross-validated gain; zero or a negative number -N takes N "
        "regressors without cross-validation.",
        minimum=-100,
        group=_DENOISE,
    )
    pcs_rule: str = option(
        "best",
        "Which number of noise regressors to take: best, as --pcs-stop says; or smallest, the fewest whose cross-validated gain is within "
        "a standard error (jackknife over runs) of the best.",
        choices=("best", "smallest"),
        group=_DENOISE,
    )
    pcs_r2: float | None = option(
        None,
        "On/off R2 above which a unit votes on the number of noise regressors (default: found from the data).",
        unit="%",
        metavar="X",
        group=_DENOISE,
    )
    noise_pool_r2: float | None = option(
        None,
        "On/off R2 below which a unit may belong to the noise pool (default: found from the data).",
        unit="%",
        metavar="X",
        group=_DENOISE,
    )
    brain_threshold: tuple[float, ...] = option(
        (99.0, 0.1),
        "Mean intensity that a unit of the noise pool must exceed: this percentile over units, times this fraction.",
        length=2,
        minimum=0,
        maximum=100,
        metavar=("PERCENTILE", "FRACTION"),
        group=_DENOISE,
    )
    fractions: tuple[float, ...] = option(
        DEFAULT_FRACTIONS,
        "Ridge fractions to choose from (length of the regularised over that of the unregularised betas); a single one is used as it is.",
        minimum=0.001,
        maximum=1.0,
        metavar="F",
        group=_DENOISE,
    )
    autoscale: bool = option(
        True,
        "Leave the betas of the fractional ridge as they are (by default they are scaled and shifted to match the unregularised ones).",
        group=_DENOISE,
    )

    whiten: str = option(
        "auto",
        "Make the noise white before the model conform is fitted: ar (one autoregressive model of the noise pool), none, or auto, which "
        "whitens event-related designs and leaves blocks (stimuli of 8 s and more) alone.",
        choices=("auto", "none", "ar"),
        group=_DENOISE,
    )
    hrf_averaging: str = option(
        "auto",
        "Average the betas of the model conform over the HRF library, weighted by evidence: on, off, or auto, which does so where "
        "onsets follow each other within 3.5 s (median). It costs ten times the fit.",
        choices=("auto", "on", "off"),
        group=_DENOISE,
    )

    write: tuple[str, ...] = option(
        (),
        "What else to write of the model conform: shrinkage: a map of log10 lambda, which says how little each unit was shrunk; ols: the "
        "ordinary least-squares betas, not shrunk, as desc-conformols.",
        choices=("shrinkage", "ols"),
        group=_DENOISE,
    )

    fit_scope: str = option(
        "auto",
        "Which runs are fitted together: those of a session, or all of the subject; auto: by session where every session repeats "
        "conditions across its runs, else by subject.",
        choices=("auto", "session", "subject"),
        group=_FIT,
    )
    session_groups: tuple[tuple[str, ...], ...] = option(
        (),
        "Sessions to treat as one when betas are standardised in cross-validation, as `01,02 03,04` (default: each its own).",
        metavar="SES,SES",
        group=_FIT,
    )
    cv_folds: tuple[tuple[str, ...], ...] = option(
        (),
        "Cross-validation folds as runs counted from 1 over the fit, as `1,2 3,4` (default: one run a fold).",
        metavar="RUN,RUN",
        group=_FIT,
    )

    def __post_init__(self) -> None:
        as_glmsingle = bool(self.compat) or self.engine == "glmsingle"
        if not self.model:
            object.__setattr__(self, "model", GLMSINGLE_MODELS if as_glmsingle else DEFAULT_MODELS)
        validate(self)
        if not self.fractions:
            raise UsageError("--fractions: name at least one fraction")
        for fold in self.cv_folds:
            if not all(run.isdigit() and int(run) >= 1 for run in fold):
                raise UsageError(f"--cv-folds: {','.join(fold)}: runs are counted from 1")
        if "conform" in self.model and as_glmsingle:
            raise UsageError("--model conform: GLMsingle has no such model; leave out --compat and --engine glmsingle")
        if self.dataset_config is not None and self.condition_column is not None:
            raise UsageError("--condition-column: --dataset-config says which column names the stimulus")
        sessions = [session for group in self.session_groups for session in group]
        if len(set(sessions)) < len(sessions):
            raise UsageError("--session-groups: a session stands in two groups")
        idle = _idle_fields(self)
        for entry in options_of(GLMSettings):
            if entry.name in idle and getattr(self, entry.name) != entry.default:
                raise UsageError(f"{entry.flag} has no effect with --model {' '.join(self.model)}: it needs {idle[entry.name]}")

    def for_models(self, models: Sequence[str], **changes: Any) -> GLMSettings:
        """The settings for other models, with what has no effect on them at its default.

        Parameters
        ----------
        models : sequence of str
            Those that are fitted.
        **changes
            Values of other fields; one that has no effect stays out.
        """
        values = {entry.name: getattr(self, entry.name) for entry in options_of(GLMSettings)} | changes | {"model": tuple(models)}
        idle = _idle_fields(SimpleNamespace(**values))
        kept = {name: value for name, value in values.items() if name not in idle}
        return dataclasses.replace(GLMSettings(), **kept) if idle else GLMSettings(**values)


def _idle_fields(settings: Any) -> dict[str, str]:
    """Fields that have no effect on the models asked for, and what each of them needs."""
    models = set(settings.model)
    denoises, shrinks = bool(models & DENOISED_MODELS), "fithrfdenoiserr" in models
    cross_validates = denoises and settings.pcs_stop > 0 and settings.n_pcs > 0
    needs = (
        (models != {"assumehrf"}, "a model with the unit's own HRF", ("hrf_library",)),
        ("fithrf" in models, "the model fithrf", ("lss",)),
        (shrinks, "the model fithrfdenoiserr", ("fractions", "autoscale")),
        ("conform" in models, "the model conform", ("whiten", "hrf_averaging", "write")),
        (cross_validates or (shrinks and len(set(settings.fractions)) > 1), "something to cross-validate", ("cv_folds",)),
        (cross_validates, "a number of noise regressors that is cross-validated", ("pcs_r2", "pcs_rule")),
        (settings.pcs_rule == "best" or settings.pcs_stop <= 0, "--pcs-rule best", ("pcs_stop",)),
        (settings.engine == "conform", "--engine conform", ("pcs_rule",)),
        (settings.pcs_stop > 0 or settings.engine == "glmsingle", "--pcs-stop above 0", ("n_pcs",)),
        (denoises, "a model with noise regressors", ("n_pcs", "pcs_stop", "pcs_rule", "pcs_r2", "noise_pool_r2", "brain_threshold")),
    )
    return {name: what for fulfilled, what, names in needs if not fulfilled for name in names}
