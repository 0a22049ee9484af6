"""Every option of conform-psn, once: a field is a flag, a TOML key and a Boutiques input."""

from __future__ import annotations

from dataclasses import dataclass

from conform_bids.errors import UsageError
from conform_bids.options import option, options_of, validate

__all__ = ["CALIBRATED", "CRITERIA", "METHODS", "PROJECTIONS", "PSNSettings"]

CALIBRATED = ("stacked", "calibrated", "crossvalidated")
PROJECTIONS = ("standard", "conservative", "aggressive", "compare")
METHODS = (*CALIBRATED, *PROJECTIONS, "wiener")
CRITERIA = ("prediction", "variance", "variance_eigenvalues", "max-tradeoff")

_INPUT = "input"
_METHOD = "method"
_PARCELS = "parcels"
_OUTPUT = "outputs"


@dataclass(frozen=True)
class PSNSettings:
    """Settings of a conform-psn run.

    Raises
    ------
    UsageError
        When a value is out of range or two options contradict each other.
    """

    input_desc: str | None = option(
        None,
        "Betas to read, by their desc (default: conform, else fithrfdenoiserr, else what there is).",
        metavar="DESC",
        group=_INPUT,
    )
    split: str | None = option(
        None,
        "Which stimuli are train and test: a column of the trial tables, or a TSV with columns stim_id and split (default: the column "
        "`split` of the trial tables). The denoiser is fitted on train and applied to all.",
        metavar="COLUMN|FILE",
        group=_INPUT,
    )
    rescale: bool = option(
        True,
        "Leave betas of the model conform as they are (by default the map stat-scale undoes the shrinkage of their amplitudes, which "
        "would otherwise be shrunk twice).",
        group=_INPUT,
    )
    session_zscore: bool | None = option(
        None,
        "Z-score each unit within each session before anything else, by mean and standard deviation of its train trials. "
        "--no-session-zscore never does (default: where there is more than one session).",
        group=_INPUT,
    )
    keep_flagged: bool = option(
        False,
        "Use trials whose estimate the trial table flags as unreliable; by default they are left out of the fit and of averages.",
        group=_INPUT,
    )

    method: str = option(
        "stacked",
        "Denoiser. stacked: a mixture of filters, calibrated on split noise; calibrated: a Wiener filter whose noise is weighted by "
        "cross-validation; crossvalidated: the number of dimensions by nested cross-validation. Those of the PSN package: standard, "
        "conservative, aggressive, compare, wiener.",
        choices=METHODS,
        group=_METHOD,
    )
    threshold_level: str = option(
        "population",
        "Where the threshold (or the weight of the noise) is chosen: once for all units of a parcel, for each unit, or for each group of "
        "units, which --unit-groups names.",
        choices=("population", "unit", "group"),
        group=_METHOD,
    )
    unit_groups: str | None = option(
        None,
        "Groups of units for --threshold-level group: an atlas of TemplateFlow by name, or a file (dseg, dlabel, label.gii).",
        metavar="NAME|FILE",
        group=_METHOD,
    )
    basis: str | None = option(
        None,
        "Dimensions to project on, in place of the method's: eigenvectors of the signal covariance, of signal less noise, of the noise, of "
        "condition means, or random.",
        choices=("signal", "difference", "noise", "pca", "random"),
        group=_METHOD,
    )
    criterion: str | None = option(
        None,
        "Rule for the number of dimensions, in place of the method's.",
        choices=CRITERIA,
        group=_METHOD,
    )
    alpha: float | None = option(
        None,
        "In place of a criterion: 0 is the number of dimensions with the best prediction, 1 keeps all, between them this share of the "
        "signal variance beyond the best prediction is kept.",
        minimum=0,
        maximum=1,
        group=_METHOD,
    )
    n_folds: int = option(
        5,
        "Folds of conditions, for what is cross-validated and for the cross-fitted responses.",
        minimum=2,
        maximum=100,
        group=_METHOD,
    )
    no_gain: str | None = option(
        None,
        "What to do with parcels whose denoising gains nothing by cross-validation: pass their trial averages through, or set them to the "
        "mean response (zero signal). Default: pass; what the methods of the PSN package make of them is left as it is.",
        choices=("pass", "zero"),
        group=_METHOD,
    )

    parcellation: str = option(
        "auto",
        "Units that are denoised together. whole: all of them; clusters: spatial clusters of --parcel-size units; the name of an atlas in "
        "TemplateFlow; or a file (dseg, dlabel, label.gii); auto: whole where there are no more units than two clusters have, else "
        "clusters.",
        metavar="auto|whole|clusters|NAME|FILE",
        group=_PARCELS,
    )
    parcel_size: int = option(
        300,
        "Units of a spatial cluster, about.",
        minimum=10,
        maximum=20000,
        group=_PARCELS,
    )

    output_units: str = option(
        "input",
        "Units of the denoised responses: those of the betas, or z, in standard deviations of each unit's train trials.",
        choices=("input", "z"),
        group=_OUTPUT,
    )
    write: tuple[str, ...] = option(
        (),
        "What else to write. noise: each trial's deviation from its condition's mean, as desc-psnnoise; removed: trial averages less "
        "denoised responses, as desc-psnremoved (it holds removed signal, too); components: the leading dimensions of each parcel, as "
        "maps.",
        choices=("noise", "removed", "components"),
        group=_OUTPUT,
    )

    def __post_init__(self) -> None:
        validate(self)
        if self.threshold_level == "group" and self.unit_groups is None:
            raise UsageError("--threshold-level group: --unit-groups names the groups")
        if self.input_desc is not None and not self.input_desc.isalnum():
            raise UsageError(f"--input-desc: {self.input_desc!r} is not a BIDS label (letters and digits)")
        if not self.parcellation:
            raise UsageError("--parcellation: a name or a file is needed")
        idle = _idle_fields(self)
        for entry in options_of(PSNSettings):
            if entry.name in idle and getattr(self, entry.name) != entry.default:
                raise UsageError(f"{entry.flag} has no effect here: it needs {idle[entry.name]}")

    @property
    def without_gain(self) -> str:
        """``pass``, ``zero`` or ``keep``: what becomes of parcels without gain."""
        return self.no_gain or ("pass" if self.method in CALIBRATED else "keep")

    @property
    def makes_clusters(self) -> bool:
        """Whether parcels may be spatial clusters."""
        return self.parcellation in ("auto", "clusters")


def _idle_fields(settings: PSNSettings) -> dict[str, str]:
    """Fields that have no effect with the others, and what each of them needs."""
    method = settings.method
    projects = method in PROJECTIONS
    needs = (
        ((projects and method != "compare") or method == "crossvalidated", "a method with one basis", ("basis",)),
        (projects, "one of the methods " + ", ".join(PROJECTIONS), ("criterion", "alpha")),
        (projects and settings.alpha is None, "a criterion, which --alpha takes the place of", ("criterion",)),
        (method not in ("stacked", "wiener"), "a method with a threshold", ("threshold_level",)),
        (settings.threshold_level == "group", "--threshold-level group", ("unit_groups",)),
        (settings.makes_clusters, "spatial clusters", ("parcel_size",)),
    )
    return {name: what for fulfilled, what, names in needs if not fulfilled for name in names}
