"""Every option of conform-encode, once: a field is a flag, a TOML key and a Boutiques input."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from conform_bids.errors import UsageError
from conform_bids.options import option, options_of, validate

__all__ = [
    "CONTEXT_STRATEGIES",
    "DEFAULT_BACKBONE",
    "DESIGNS",
    "ENGINES",
    "ESTIMATORS",
    "HRFS",
    "MIN_CONTEXT",
    "WRITABLE",
    "EncodeSettings",
]

DESIGNS = ("trials", "movie")
HRFS = ("fir", "glm", "assumed")
ESTIMATORS = ("ridge", "banded")
ENGINES = ("prior", "unrolled", "incontext")
PRESETS = ("small", "paper")
CONTEXT_STRATEGIES = ("random", "diverse", "first")
MIN_CONTEXT = 4
"""Stimuli that the guard of a population model needs."""
WRITABLE = ("predictions",)
DEFAULT_BACKBONE = "efficientnet-lite0"
_INPUT = "input"
_FEATURES = "features"
_MODEL = "model"
_MOVIE = "continuous movies"
_OUTPUT = "output"
_POPULATION = "population model"
_NEW_PERSON = "a new person"
_QUERIES = "questions to a model"


@dataclass(frozen=True)
class EncodeSettings:
    """Settings of a conform-encode run.

    Raises
    ------
    UsageError
        When a value is out of range or two options contradict each other.
    """

    design: str = option(
        "trials",
        "What responses are. trials: one a stimulus, of conform-psn, -align or -glm. movie: fMRIPrep's BOLD while stimuli of many volumes "
        "(films, stories) are on; features then have a row a frame, and each volume is predicted.",
        choices=DESIGNS,
        group=_INPUT,
    )
    input_desc: str | None = option(
        None,
        "Responses that models are fitted on, by their desc (default: desc-psn of conform-psn; else single-trial betas of conform-glm, "
        "averaged by stimulus). Scores are always of desc-trialavg, which is not denoised, where it is there.",
        metavar="DESC",
        group=_INPUT,
    )
    split: str | None = option(
        None,
        "Which stimuli are train and test: a column of the trial tables (of movies: of the events), or a TSV with columns stim_id and "
        "split (default: the column `split`). Models are fitted on train; scores are of test.",
        metavar="COLUMN|FILE",
        group=_INPUT,
    )
    test_fraction: float = option(
        0.2,
        "Where no split is given: the share of stimuli that is held out for the scores, drawn by --random-seed (of movies, "
        "those that repeat first). 0: none, and no scores.",
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
        None,
        "Folder that stim_file is relative to (default: stimuli/ of the raw dataset). Of movies with --features, it tells which are the "
        "same by content.",
        metavar="DIR",
        group=_FEATURES,
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
        "Folds of the cross-validation that chooses penalties; 0: every stimulus is left out by itself (exact, and no slower). Of movies: "
        "folds of whole runs; 0: every run is left out by itself, together with others that show the same movie.",
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
        "What else to write. predictions: a map a test stimulus (of movies: a volume of the test movies), predicted by the model.",
        choices=WRITABLE,
        metavar="WHAT",
        group=_OUTPUT,
    )

    hrf: str = option(
        "fir",
        "With --design movie: what of the features reaches a response. fir: those of earlier volumes (--delays), with weights of their "
        "own. glm: features convolved with each unit's HRF, as conform-glm chose it (its map hrfindex; -d conform-glm=PATH). assumed: "
        "with one HRF for all units.",
        choices=HRFS,
        group=_MOVIE,
    )
    delays: tuple[int, ...] = option(
        (),
        "With --hrf fir: delays of features, in volumes (default: those from 2 to 8 s; 1 2 3 4 at a repetition time of 2 s).",
        minimum=0,
        maximum=100,
        metavar="N",
        group=_MOVIE,
    )
    hrf_library: Path | None = option(
        None, "With --hrf glm: the HRF library that conform-glm was given (default: the one that comes with it).", metavar="FILE",
        group=_MOVIE,
    )  # fmt: skip
    frame_rate: float = option(
        4.0,
        "With --design movie: frames of a video that a backbone is shown, evenly spread; those of a volume are averaged.",
        unit="a second",
        minimum=0.05,
        maximum=240,
        metavar="HZ",
        group=_MOVIE,
    )
    condition_column: str | None = option(
        None,
        "With --design movie: column of the events that names the movie (default: the first of stim_id, stim_file, trial_type).",
        group=_MOVIE,
    )
    trial_filter: str | None = option(
        None,
        "With --design movie: keep only the events for which this holds, as \"trial_type == 'movie'\".",
        metavar="EXPR",
        group=_MOVIE,
    )
    confounds: tuple[str, ...] = option(
        (),
        "With --design movie: columns of fMRIPrep's confounds to regress out of responses and features; wildcards are allowed "
        "('trans_*' 'rot_*').",
        metavar="NAME",
        group=_MOVIE,
    )
    polynomial_degree: int | None = option(
        None,
        "With --design movie: degree of the drift polynomials of each run (default: half the run's minutes, rounded).",
        minimum=0,
        maximum=30,
        group=_MOVIE,
    )

    engine: str = option(
        "prior",
        "Population model that the level group trains on a store. prior: a mixture of Gaussians over the weights of units, with a "
        "new person's posterior in closed form. unrolled: a network that learns how to infer, a unit at a time; for populations that a "
        "mixture cannot hold. incontext: a transformer that attends to the context's stimuli, a unit at a time (BraInCoRL's).",
        choices=ENGINES,
        group=_POPULATION,
    )
    preset: str = option(
        "small",
        "With --engine incontext: a network that a CPU can train, or the published one (97 million numbers, for GPUs).",
        choices=PRESETS,
        group=_POPULATION,
    )
    training_steps: int | None = option(
        None,
        "Steps of training of a network, for each person left out and for the model itself (default: 2600 of unrolled, about a tenth of "
        "a second each on one core; 6000 of incontext, as long each; 200000 of --preset paper). A run that was interrupted goes on where "
        "it was.",
        minimum=1,
        maximum=10_000_000,
        group=_POPULATION,
    )
    training_batch: int | None = option(
        None,
        "What a step of training looks at: contexts of unrolled (default: 4, of 192 units each), units of incontext (default: 64; 80 of "
        "--preset paper). Processes that torchrun starts share it; the result does not depend on their number.",
        minimum=1,
        maximum=1_000_000,
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
    draws: int = option(
        5,
        "Random contexts of each size that are drawn; of a new person, maps and weights are of the first, and scores of all.",
        minimum=1,
        maximum=1000,
        group=_POPULATION,
    )

    model: Path | None = option(
        None,
        "Population model (what the level group wrote to model/) that learns each participant in context, instead of a fit to the "
        "participant alone. A guard falls back to ridge regression where the model does not suit the participant.",
        metavar="DIR",
        group=_NEW_PERSON,
    )
    context: str = option(
        "all", "Train stimuli of the participant that the population model is shown; at least 4.", metavar="K|all", group=_NEW_PERSON
    )
    context_strategy: str = option(
        "random",
        "Which train stimuli these are: drawn at random, each as unlike those before it as there is (diverse), or the first that were "
        "shown (where the tables do not say when, the first by name).",
        choices=CONTEXT_STRATEGIES,
        group=_NEW_PERSON,
    )
    allow_seen: bool = option(
        False, "Go on where the population model was trained on the participant, whose scores then are no scores of a new person.",
        group=_NEW_PERSON,
    )  # fmt: skip

    text_queries: tuple[str, ...] = option(
        (),
        "Map where the brain would respond to a text: words, or files with one a line. It needs features that share a space with text: "
        "efficientnet-lite0 (names of ImageNet's classes) or open_clip.",
        metavar="FILE|WORD",
        group=_QUERIES,
    )
    rois: tuple[str, ...] = option(
        (),
        "Masks in the space of the responses, by the text query that they should be found by: AUC and top-1 accuracy are computed.",
        metavar="WORD=FILE",
        group=_QUERIES,
    )
    influence: bool = option(
        False, "With --model: how much each context stimulus shapes each unit's weights, as maps and a contact sheet.", group=_QUERIES
    )
    predict: Path | None = option(
        None,
        "Predict the responses to new stimuli: a table of their features, or (with a backbone) a folder of the stimulus files.",
        metavar="FILE|DIR",
        group=_QUERIES,
    )

    def __post_init__(self) -> None:
        validate(self)
        if self.input_desc is not None and not (self.input_desc.isascii() and self.input_desc.isalnum()):
            raise UsageError(f"--input-desc: {self.input_desc!r} is not a BIDS label (letters and digits)")
        if self.folds == 1:
            raise UsageError("--folds 1: nothing would be left to fit on; 0 leaves every stimulus out by itself, 2 and more are folds")
        self._check_design()
        self._check_context()
        for flag, value in (("--training-steps", self.training_steps), ("--training-batch", self.training_batch)):
            if value is not None and self.engine == "prior":
                raise UsageError(f"{flag} has no effect with --engine prior, which is no network")
        if self.preset != "small" and self.engine != "incontext":
            raise UsageError("--preset has no effect without --engine incontext")
        if self.estimator == "banded" and self.n_spaces_at_most == 1:
            raise UsageError("--estimator banded needs two feature spaces or more: name several --features, or a folder of them")
        if self.stimuli_dir is not None and self.chosen_backbone is None and not self.sees_stimuli:
            raise UsageError(
                "--stimuli-dir has no effect here: features are read from --features; it needs --backbone, --design movie or --influence"
            )
        self._check_questions()

    def _check_design(self) -> None:
        """Options that belong to movies, or to trials."""
        if self.is_movie:
            if self.model is not None:
                raise UsageError("--model: a population model is shown responses to single stimuli; it has no use with --design movie")
            if self.input_desc is not None:
                raise UsageError("--input-desc has no effect with --design movie, which reads fMRIPrep's BOLD")
            if self.delays and self.hrf != "fir":
                raise UsageError(f"--delays has no effect with --hrf {self.hrf}: it needs --hrf fir")
            if self.hrf_library is not None and self.hrf != "glm":
                raise UsageError(f"--hrf-library has no effect with --hrf {self.hrf}: it needs --hrf glm")
            if len(set(self.delays)) < len(self.delays):
                raise UsageError("--delays: one is named twice")
            if self.frame_rate != EncodeSettings.frame_rate and self.chosen_backbone is None:
                raise UsageError("--frame-rate has no effect here: features are read from --features; it needs --backbone")
            return
        for entry in options_of(EncodeSettings):
            if entry.group == _MOVIE and getattr(self, entry.name) != entry.default:
                raise UsageError(f"{entry.flag} has no effect without --design movie")

    def _check_context(self) -> None:
        """Options that belong to a population model."""
        if self.model is None:
            given = {"--context": self.context != "all", "--context-strategy": self.context_strategy != "random"}
            given |= {"--allow-seen": self.allow_seen, "--influence": self.influence}
            for flag, there in given.items():
                if there:
                    raise UsageError(f"{flag} has no effect without --model")
            return
        if self.context != "all" and not (self.context.isdecimal() and self.context.isascii() and int(self.context) >= MIN_CONTEXT):
            raise UsageError(f"--context {self.context}: it is `all`, or a number of stimuli from {MIN_CONTEXT}")
        own = {"--estimator": self.estimator != "ridge", "--folds": bool(self.folds), "--alphas": bool(self.alphas)}
        own |= {"--components": bool(self.components)}
        for flag, there in own.items():
            if there:
                raise UsageError(f"{flag} has no effect with --model: the population model brings its own")

    def _check_questions(self) -> None:
        """Options that ask a model something."""
        words = [text.partition("=")[0] for text in self.rois]
        for text, word in zip(self.rois, words, strict=True):
            if not word or not text.partition("=")[2]:
                raise UsageError(f"--rois {text}: it is a text query and the file of a mask, WORD=FILE")
            if words.count(word) > 1:
                raise UsageError(f"--rois: {word!r} is named twice")
        if self.rois and not self.text_queries:
            raise UsageError("--rois has no effect without --text-queries")

    @property
    def is_movie(self) -> bool:
        """Whether volumes are predicted, instead of responses to stimuli."""
        return self.design == "movie"

    @property
    def chosen_backbone(self) -> str | None:
        """What computes features; None where tables are read alone."""
        return self.backbone or (None if self.features else DEFAULT_BACKBONE)

    @property
    def sees_stimuli(self) -> bool:
        """Whether stimulus files serve beside tables of features: to tell movies apart by content, or on the sheet of influences."""
        return self.is_movie or self.influence

    @property
    def n_context(self) -> int | None:
        """Stimuli that a population model is shown; None for all."""
        return None if self.context == "all" else int(self.context)

    @property
    def n_draws(self) -> int:
        """Contexts of a new person that differ."""
        return self.draws if self.n_context is not None and self.context_strategy == "random" else 1

    @property
    def n_spaces_at_most(self) -> float:
        """Feature spaces that these settings may name; a folder may hold any number."""
        if any(Path(name).is_dir() for name in self.features):
            return float("inf")
        return len(self.features) + (self.chosen_backbone is not None)
