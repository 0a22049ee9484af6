"""Every option of conform-align, once: a field is a flag, a TOML key and a Boutiques input."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from conform_bids.errors import UsageError
from conform_bids.options import option, options_of, validate

__all__ = ["METHODS", "AlignSettings"]

METHODS = ("stack", "psrm", "srm", "procrustes", "ridge", "none")
_INPUT = "input"
_METHOD = "method"
_PARCELS = "parcels"
_TEMPLATE = "template"
_STORE = "the aggregated dataset"


@dataclass(frozen=True)
class AlignSettings:
    """Settings of a conform-align run.

    Raises
    ------
    UsageError
        When a value is out of range or two options contradict each other.
    """

    input_desc: str | None = option(
        None,
        "Responses to align, by their desc (default: those of conform-psn, desc-psn; else single-trial betas of conform-glm, averaged by "
        "stimulus: conform, else fithrfdenoiserr, else what there is).",
        metavar="DESC",
        group=_INPUT,
    )
    split: str | None = option(
        None,
        "Which stimuli are train and test: a column of the trial tables, or a TSV with columns stim_id and split (default: the column "
        "`split` of the trial tables). Maps are fitted on train; scores are of test.",
        metavar="COLUMN|FILE",
        group=_INPUT,
    )

    method: str = option(
        "stack",
        "How people are aligned. stack: smoothed anatomy and three probabilistic shared response models, weighted by cross-validation; "
        "psrm: one of these models alone; srm: the deterministic shared response model; procrustes: a rotation a parcel, invertible; "
        "ridge: a linear prediction of the template, not invertible; none: the same place, smoothed.",
        choices=METHODS,
        group=_METHOD,
    )
    align_on: str = option(
        "train",
        "Stimuli that maps are fitted on. all: test stimuli, too; outputs say so (FitIncludesTest), and scores are of maps that are fitted "
        "on train alone.",
        choices=("train", "all"),
        group=_METHOD,
    )
    min_shared: int = option(
        10,
        "Shared stimuli that a person needs; with fewer the person is left out of the template.",
        minimum=3,
        maximum=100000,
        group=_METHOD,
    )

    parcellation: str = option(
        "auto",
        "Units that are aligned together, the same in all people. whole: all of them; clusters: spatial clusters of --parcel-size units; "
        "the name of an atlas in TemplateFlow; or a file (dseg, dlabel, label.gii); auto: whole where there are no more units than two "
        "clusters have, else clusters.",
        metavar="auto|whole|clusters|NAME|FILE",
        group=_PARCELS,
    )
    parcel_size: int = option(200, "Units of a spatial cluster, about.", minimum=10, maximum=20000, group=_PARCELS)
    margin: float = option(
        2.0,
        "Units of other parcels within this distance of a parcel help to align it, and are averaged with their own parcel's.",
        unit="times the distance of neighbours",
        minimum=0,
        maximum=20,
        group=_PARCELS,
    )

    template_name: str = option("conform", "Name of the template that the level group makes: tpl-NAME.", metavar="NAME", group=_TEMPLATE)
    template: str | None = option(
        None,
        "Align the participants to this template, which stays as it is: the output folder of a level group, or its *_xfm.h5 of a tpl-.",
        metavar="DIR|FILE",
        group=_TEMPLATE,
    )
    apply_to: tuple[str, ...] = option(
        (),
        "With --template: what else to bring to the template's units, by desc (such as trialavg or psncrossfit); the responses that are "
        "aligned are always written.",
        metavar="DESC",
        group=_TEMPLATE,
    )

    store: bool = option(
        False,
        "At the level group: write everybody's trials, of all datasets (bids_dir, or those of -d NAME=PATH), to OUT/store, with a split "
        "that does not leak. A store that is there gets the datasets that it lacks. Nobody has to be aligned for it.",
        group=_STORE,
    )
    store_source: str = option(
        "glm", "Whose betas are stored: single trials, denoised responses, or aligned ones.", choices=("glm", "psn", "align"), group=_STORE
    )
    store_features: Path | None = option(
        None,
        "With --store or --split-only: features of the stimuli (HDF5, npz, parquet or TSV), by which near-duplicates are found; "
        "conform-store features makes such a table.",
        metavar="FILE",
        group=_STORE,
    )
    store_threshold: float | None = option(
        None,
        "Cosine of these features above which two stimuli count as the same; every backbone needs its own.",
        minimum=-1,
        maximum=1,
        metavar="COSINE",
        group=_STORE,
    )
    split_only: bool = option(
        False,
        "At the level group: write split.tsv from the stimuli of all datasets alone, before any fit, and nothing else; conform-glm and "
        "conform-psn take it by --split.",
        group=_STORE,
    )

    def __post_init__(self) -> None:
        validate(self)
        if self.store_source != "glm" and not self.store:
            raise UsageError("--store-source has no effect without --store")
        if self.store_features is not None and not (self.store or self.split_only):
            raise UsageError("--store-features has no effect without --store or --split-only")
        if (self.store_threshold is None) != (self.store_features is None):
            raise UsageError("--store-features and --store-threshold: both are needed, features and the cosine above which they count")
        if self.store and self.split_only:
            raise UsageError("--store and --split-only: name one; a store makes its split itself")
        for flag, label in (("--input-desc", self.input_desc), ("--template-name", self.template_name)):
            if label is not None and not (label.isascii() and label.isalnum()):
                raise UsageError(f"{flag}: {label!r} is not a BIDS label (letters and digits)")
        if not self.parcellation:
            raise UsageError("--parcellation: a name or a file is needed")
        idle = {} if self.template is not None else {"apply_to": "--template"}
        if self.parcellation not in ("auto", "clusters"):
            idle["parcel_size"] = "spatial clusters"
        if self.template is not None:
            shared = ("method", "parcellation", "parcel_size", "margin", "template_name")
            idle |= dict.fromkeys(shared, "a template to be made, and --template is given, which has its own")
        for entry in options_of(AlignSettings):
            if entry.name in idle and getattr(self, entry.name) != entry.default:
                raise UsageError(f"{entry.flag} has no effect here: it needs {idle[entry.name]}")
