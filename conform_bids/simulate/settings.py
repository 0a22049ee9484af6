"""Every option of the simulator, once."""

from __future__ import annotations

from dataclasses import dataclass

from conform_bids.errors import UsageError
from conform_bids.options import option, validate

__all__ = ["FORMATS", "SimulationSettings"]

FORMATS = ("nifti", "cifti", "gifti")

_SIZE = "size"
_DESIGN = "design"
_SIGNAL = "signal and noise"
_MARGIN_S = 24.0  # before the first and after the last onset


@dataclass(frozen=True)
class SimulationSettings:
    """Settings of a simulated dataset; standard deviations of noise are in percent of a unit's mean.

    Raises
    ------
    UsageError
        When a value is out of range or the design cannot hold its trials.
    """

    n_subjects: int = option(2, "Number of participants.", minimum=1, maximum=99, flag="--subjects", group=_SIZE)
    n_sessions: int = option(2, "Number of sessions of each participant.", minimum=1, maximum=99, flag="--sessions", group=_SIZE)
    n_runs: int = option(3, "Number of runs of each session.", minimum=1, maximum=99, flag="--runs", group=_SIZE)
    file_formats: tuple[str, ...] = option(FORMATS, "Formats of the preprocessed series.", choices=FORMATS, group=_SIZE)
    voxel_size: float = option(6.0, "Edge of a voxel.", unit="mm", minimum=4, maximum=15, group=_SIZE)

    n_stimuli: int = option(40, "Number of stimuli; every run shows all of them.", minimum=2, maximum=999, flag="--stimuli", group=_DESIGN)
    repeats: int = option(1, "How often each run shows each stimulus.", minimum=1, maximum=20, group=_DESIGN)
    test_fraction: float = option(
        0.2,
        "Fraction of the stimuli that the events' column `split` calls test; 0 leaves the column out.",
        minimum=0,
        maximum=0.9,
        group=_DESIGN,
    )
    repetition_time: float = option(1.6, "Time between volumes.", unit="s", minimum=0.3, maximum=5, group=_DESIGN)
    stimulus_duration: float = option(1.5, "Duration of a stimulus.", unit="s", minimum=0.1, maximum=20, group=_DESIGN)
    onset_interval: float = option(
        4.2, "Mean time between onsets; each is jittered by up to a seventh of it.", unit="s", minimum=1, group=_DESIGN
    )
    on_grid: bool = option(False, "Put every onset on a multiple of the repetition time.", group=_DESIGN)
    slice_timing: bool = option(
        True,
        "Let the volumes start at their own onset (by default they are as fMRIPrep leaves them once it has corrected slice timing: "
        "StartTime is half the repetition time).",
        group=_DESIGN,
    )

    response: float = option(1.6, "Mean response of a responsive unit, in percent signal change.", minimum=0, group=_SIGNAL)
    selectivity: float = option(
        0.6, "Standard deviation of responses over stimuli, as a fraction of the mean response.", minimum=0, group=_SIGNAL
    )
    trial_variability: float = option(
        0.3, "Standard deviation of responses over repeats, as a fraction of the mean response.", minimum=0, group=_SIGNAL
    )
    outside_library: float = option(
        0.3, "Fraction of units whose HRF is a stretched and delayed one that is not in the library.", minimum=0, maximum=1, group=_SIGNAL
    )
    autoregressive_noise: float = option(0.6, "Standard deviation of the autoregressive noise.", unit="%", minimum=0, group=_SIGNAL)
    shared_noise: float = option(1.2, "Standard deviation of the noise that units share.", unit="%", minimum=0, group=_SIGNAL)
    thermal_noise: float = option(0.4, "Standard deviation of the white noise of each unit.", unit="%", minimum=0, group=_SIGNAL)
    drift: float = option(1.0, "Standard deviation of the slow drift.", unit="%", minimum=0, group=_SIGNAL)
    motion: float = option(0.4, "Standard deviation of what head motion adds.", unit="%", minimum=0, group=_SIGNAL)
    seed: int = option(0, "Seed of every random choice; the same settings and seed give the same bytes.", minimum=0, group=_SIGNAL)

    def __post_init__(self) -> None:
        validate(self)
        if not self.file_formats:
            raise UsageError("--file-formats: name at least one format")
        if self.test_fraction and not 0 < self.n_test < self.n_stimuli:
            raise UsageError(f"--test-fraction: {self.test_fraction:g} of {self.n_stimuli} stimuli leaves train or test empty")

        if self.on_grid and self.onset_interval * 5 / 7 < self.repetition_time:
            raise UsageError(
                f"--on-grid: onsets every {self.onset_interval:g} s, jittered, would share volumes of {self.repetition_time:g} s; "
                "raise --onset-interval"
            )

    @property
    def n_test(self) -> int:
        """Number of test stimuli."""
        return round(self.test_fraction * self.n_stimuli)

    @property
    def n_trials(self) -> int:
        """Trials of a run."""
        return self.n_stimuli * self.repeats

    @property
    def n_volumes(self) -> int:
        """Volumes of a run: the trials, with a margin before and after."""
        return int(-(-(self.n_trials * self.onset_interval + _MARGIN_S) // self.repetition_time))

    @property
    def start_time(self) -> float:
        """Time (s) of the first volume after the start of the acquisition."""
        return self.repetition_time / 2 if self.slice_timing else 0.0
