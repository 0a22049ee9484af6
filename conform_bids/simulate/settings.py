"""Every option of the simulator, once."""

from __future__ import annotations

from dataclasses import dataclass

from conform_bids.errors import UsageError
from conform_bids.options import option, validate

__all__ = ["FORMATS", "REPEATS_OVER", "SimulationSettings"]

FORMATS = ("nifti", "cifti", "gifti")
REPEATS_OVER = ("run", "session", "subject", "one-session")

_SIZE = "size"
_STIMULI = "stimuli"
_DESIGN = "design"
_PEOPLE = "people"
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

    n_stimuli: int = option(40, "Number of stimuli that a participant sees.", minimum=2, maximum=9999, flag="--stimuli", group=_STIMULI)
    shared_fraction: float = option(
        1.0, "Fraction of these that all participants see; the others are a participant's own.", minimum=0, maximum=1, group=_STIMULI
    )
    test_fraction: float = option(
        0.2,
        "Fraction of the stimuli that the events' column `split` calls test; 0 leaves the column out.",
        minimum=0,
        maximum=0.9,
        group=_STIMULI,
    )
    test_on_shared: bool = option(
        False, "Test on all shared stimuli and on no other, as NSD does; --test-fraction is not used then.", group=_STIMULI
    )
    common_fraction: float = option(
        0.0,
        "Fraction of a participant's stimuli that every dataset of the same --population-seed shows too: the same images, under "
        "names of the dataset's own. They are among the shared ones.",
        minimum=0,
        maximum=1,
        group=_STIMULI,
    )
    near_duplicates: int = option(
        0,
        "Number of shared stimuli that are near copies of others (a little moved and recoloured; of common ones, where there are any).",
        minimum=0,
        group=_STIMULI,
    )

    repeats: int = option(1, "How often a stimulus is shown in what --repeats-over names.", minimum=1, maximum=50, group=_DESIGN)
    repeats_over: str = option(
        "run",
        "run: every run shows all stimuli; session: all runs of a session together do; subject: all sessions together do, repeats far "
        "apart; one-session: each stimulus is shown in one session only, with all its repeats.",
        choices=REPEATS_OVER,
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

    topography_shift: float = option(
        6.0,
        "Standard deviation, by axis, of the smooth displacement of a participant's functional map; patches also vary in place and size.",
        unit="mm",
        minimum=0,
        maximum=40,
        group=_PEOPLE,
    )
    idiosyncrasy: float = option(
        0.2, "Fraction of the variance of tuning that is a participant's own, or a unit's.", minimum=0, maximum=1, group=_PEOPLE
    )

    response: float = option(1.6, "Mean response of a responsive unit, in percent signal change.", minimum=0, group=_SIGNAL)
    selectivity: float = option(
        0.6, "Standard deviation of responses over stimuli, as a fraction of the mean response.", minimum=0, group=_SIGNAL
    )
    trial_variability: float = option(
        0.3, "Standard deviation of responses over repeats, as a fraction of the mean response.", minimum=0, group=_SIGNAL
    )
    session_gain: float = option(0.07, "Standard deviation over sessions of the factor of responses.", minimum=0, maximum=1, group=_SIGNAL)
    session_offset: float = option(
        0.1,
        "Standard deviation over sessions of what is added to all responses of a unit, as a fraction of the mean response.",
        minimum=0,
        group=_SIGNAL,
    )
    noise_spread: float = option(
        0.4,
        "Standard deviation over units of the logarithm of their noise and of their variability over repeats: a spread of noise ceilings.",
        minimum=0,
        maximum=2,
        group=_SIGNAL,
    )
    outside_library: float = option(
        0.3,
        "Fraction of units whose HRF is not in the library: curves of it stretched and delayed, and random double gammas.",
        minimum=0,
        maximum=1,
        group=_SIGNAL,
    )
    hrf_spread: float = option(
        3.4,
        "Standard deviation over units of the place of their HRF in the library of 20, which goes from early to late; large values make "
        "the earliest and the latest the most frequent.",
        minimum=0,
        group=_SIGNAL,
    )
    autoregressive_noise: float = option(0.6, "Standard deviation of the autoregressive noise.", unit="%", minimum=0, group=_SIGNAL)
    shared_noise: float = option(1.2, "Standard deviation of the noise that units share.", unit="%", minimum=0, group=_SIGNAL)
    shared_sources: int = option(4, "Number of sources of the noise that units share.", minimum=1, maximum=50, group=_SIGNAL)
    task_locked: float = option(
        0.0, "Fraction of the variance of the shared noise that follows the trials.", minimum=0, maximum=1, group=_SIGNAL
    )
    thermal_noise: float = option(0.4, "Standard deviation of the white noise of each unit.", unit="%", minimum=0, group=_SIGNAL)
    drift: float = option(1.0, "Standard deviation of the slow drift.", unit="%", minimum=0, group=_SIGNAL)
    motion: float = option(0.4, "Standard deviation of what head motion adds.", unit="%", minimum=0, group=_SIGNAL)
    seed: int = option(
        0,
        "Seed of this dataset: its people, stimuli, designs and noise; the same settings and seeds give the same bytes.",
        minimum=0,
        group=_SIGNAL,
    )
    population_seed: int = option(
        0,
        "Seed of the population: its functional organisation, and the stimuli that its datasets have in common. Another --seed under the "
        "same one draws new people of the same population.",
        minimum=0,
        group=_PEOPLE,
    )

    def __post_init__(self) -> None:
        validate(self)
        if not self.file_formats:
            raise UsageError("--file-formats: name at least one format")
        if (self.test_on_shared or self.test_fraction) and not 0 < self.n_test < self.n_stimuli:
            flag = "--test-on-shared" if self.test_on_shared else f"--test-fraction: {self.test_fraction:g}"
            raise UsageError(f"{flag} of {self.n_stimuli} stimuli leaves train or test empty")
        if max(self.n_common, self.near_duplicates) + self.near_duplicates > self.n_shared:
            raise UsageError(
                f"--common-fraction, --near-duplicates: {self.n_common} common stimuli and {self.near_duplicates} near copies with their "
                f"originals do not fit into {self.n_shared} shared stimuli"
            )
        if self.on_grid and self.onset_interval * 5 / 7 < self.repetition_time:
            raise UsageError(
                f"--on-grid: onsets every {self.onset_interval:g} s, jittered, would share volumes of {self.repetition_time:g} s; "
                "raise --onset-interval"
            )
        if self.n_stimuli * self.repeats < self._n_parts or (self.repeats_over == "one-session" and self.n_stimuli < self.n_sessions):
            raise UsageError(f"--repeats-over {self.repeats_over}: there are more runs or sessions than trials to deal out")

    @property
    def _n_parts(self) -> int:
        """Runs over which `repeats` of all stimuli are spread."""
        return {"run": 1, "session": self.n_runs}.get(self.repeats_over, self.n_runs * self.n_sessions)

    @property
    def n_shared(self) -> int:
        """Number of stimuli that all participants see."""
        return round(self.shared_fraction * self.n_stimuli)

    @property
    def n_common(self) -> int:
        """Number of stimuli that datasets of the population have in common."""
        return round(self.common_fraction * self.n_stimuli)

    @property
    def n_test(self) -> int:
        """Number of test stimuli of a participant."""
        return self.n_shared if self.test_on_shared else round(self.test_fraction * self.n_stimuli)

    @property
    def n_trials(self) -> int:
        """Trials of a run; where they cannot be dealt out evenly, of the longest run."""
        if self.repeats_over == "one-session":
            of_session = -(-self.n_stimuli // self.n_sessions) * self.repeats
            return -(-of_session // self.n_runs)
        return -(-self.n_stimuli * self.repeats // self._n_parts)

    @property
    def n_volumes(self) -> int:
        """Volumes of a run: the trials, with a margin before and after."""
        return int(-(-(self.n_trials * self.onset_interval + _MARGIN_S) // self.repetition_time))

    @property
    def start_time(self) -> float:
        """Time (s) of the first volume after the start of the acquisition."""
        return self.repetition_time / 2 if self.slice_timing else 0.0
