"""Every option of conform-encode, once: a field is a flag, a TOML key and a Boutiques input."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from conform_bids.errors import UsageError
from conform_bids.options import option, validate

__all__ = ["DEFAULT_BACKBONE", "ENGINES", "ESTIMATORS", "WRITABLE", "EncodeSettings"]

ESTIMATORS = ("ridge", "banded")
ENGINES = ("prior",)
WRITABLE = ("predictions",)
DEFAULT_BACKBONE = "efficientnet-lite0"
_INPUT = "input"
_FEATURES = "features"
_MODEL = "model"
_OUTPUT = "output"
_POPULATION = "population model"


@dataclass(frozen=True)
class EncodeSettings:
    """Settings of a conform-encode run.

    Raises
    ------
    UsageError
        When a value is out of range or two options contradict each other.
    """

    input_desc: str | None = option(
        None,
        "Responses that models are fitted on, by their desc (default: desc-psn of conform-psn; else single-trial betas of conform-glm, "
        "averaged by stimulus). Scores are always of desc-trialavg, which is not denoised, where it is there.",
        metavar="DESC",
        group=_INPUT,
    )
    split: str | None = option(
        None,
        "Which stimuli are train and test: a column of the trial tables, or a TSV with columns stim_id and split (default: the column "
        "`split` of the trial tables). Models are fitted on train; scores are of test.",
        metavar="COLUMN|FILE",
        group=_INPUT,
    )
    test_fraction: float = option(
        0.2,
        "Where no split is given: the share of stimuli that is held out for the scores, drawn by --random-seed. 0: none, and no scores.",
        minimum=0,
        maximum=0.9,
        group=_INPUT,
    )

    features: tuple[str, ...] = option(
        (),
        "Tables of stimulus features (HDF5, npz or parquet), or folders of them; each table is a feature space. Rows are found by the "
        "SHA-256 of the stimulus file, else by stim_id, never by their order.",
        metavar="FILE|DIR",
        group=_FEATURES,
    )
    backbone: str | None = option(
        None,
        "Compute features from the stimulus files: efficientnet-lite0 (comes with conform; the default where no --features are given), "
        "open_clip:MODEL/WEIGHTS, timm:MODEL or transformers:MODEL (extra `features`).",
        metavar="NAME",
        group=_FEATURES,
    )
    stimuli_dir: Path | None = option(
        None, "Folder that stim_file is relative to (default: stimuli/ of the raw dataset).", metavar="DIR", group=_FEATURES
    )
    components: int = option(
        0,
        "Principal components of each feature space that are kept, fitted on the train stimuli; 0: all features as they are.",
        minimum=0,
        maximum=100000,
        group=_FEATURES,
    )

    estimator: str = option(
        "ridge",
        "ridge: one penalty a unit for all features; banded: one for each feature space and unit, which shares what is predicted out over "
        "the feature spaces.",
        choices=ESTIMATORS,
        group=_MODEL,
    )
    folds: int = option(
        0,
        "Folds of the cross-validation that chooses penalties; 0: every stimulus is left out by itself (exact, and no slower).",
        minimum=0,
        maximum=100,
        group=_MODEL,
    )
    alphas: tuple[float, ...] = option(
        (),
        "Penalties to choose from (default: 12 in equal ratios, from .001 to 10000 times the mean variance that a stimulus has in the "
        "features, times the stimuli).",
        minimum=1e-12,
        maximum=1e15,
        metavar="ALPHA",
        group=_MODEL,
    )
    bootstraps: int = option(
        1000, "Resamplings of the test stimuli for the intervals of the scores; 0: none.", minimum=0, maximum=100000, group=_OUTPUT
    )
    write: tuple[str, ...] = option(
        (),
        "What else to write. predictions: a map a test stimulus, predicted by the model.",
        choices=WRITABLE,
        metavar="WHAT",
        group=_OUTPUT,
    )

    engine: str = option(
        "prior",
        "Population model that the level group trains on a store. prior: a mixture of Gaussians over the weights of units, with a "
        "new person's posterior in closed form.",
        choices=ENGINES,
        group=_POPULATION,
    )
    max_units: int = option(
        3000,
        "Units of each person of the store that a population model is trained and scored on, drawn by --random-seed.",
        minimum=50,
        maximum=1000000,
        group=_POPULATION,
    )
    contexts: tuple[int, ...] = option(
        (10, 20, 50, 100),
        "Numbers of stimuli with which the population model is scored on people who were left out of its training.",
        minimum=3,
        maximum=100000,
        metavar="K",
        group=_POPULATION,
    )
    draws: int = option(5, "Contexts of each size that are drawn.", minimum=1, maximum=1000, group=_POPULATION)

    def __post_init__(self) -> None:
        validate(self)
        if self.input_desc is not None and not (self.input_desc.isascii() and self.input_desc.isalnum()):
            raise UsageError(f"--input-desc: {self.input_desc!r} is not a BIDS label (letters and digits)")
        if self.folds == 1:
            raise UsageError("--folds 1: nothing would be left to fit on; 0 leaves every stimulus out by itself, 2 and more are folds")
        if self.estimator == "banded" and self.n_spaces_at_most == 1:
            raise UsageError("--estimator banded needs two feature spaces or more: name several --features, or a folder of them")
        if self.stimuli_dir is not None and self.chosen_backbone is None:
            raise UsageError("--stimuli-dir has no effect here: features are read from --features; it needs --backbone")

    @property
    def chosen_backbone(self) -> str | None:
        """What computes features; None where tables are read alone."""
        return self.backbone or (None if self.features else DEFAULT_BACKBONE)

    @property
    def n_spaces_at_most(self) -> float:
        """Feature spaces that these settings may name; a folder may hold any number."""
        if any(Path(name).is_dir() for name in self.features):
            return float("inf")
        return len(self.features) + (self.chosen_backbone is not None)
