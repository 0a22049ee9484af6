"""HRFs against GLMsingle's own curves (numbers copied from its outputs), and their properties."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import gamma

from conform_bids.bids.hrf_tables import load_default_assumed_hrf, load_default_library, read_hrf_table
from conform_bids.errors import MissingInputError, UnusableInputError
from conform_bids.numerics.hrf import (
    HRFLibrary,
    double_gamma,
    library_from_parameters,
    response_at,
    sample_library_glmsingle,
)

# hrftoassume of GLMsingle at TR 1.6 s and a stimulus of 2 s: its first and its last samples
ASSUMED_START = (0.0, 0.08710086, 0.53969485, 0.95279217)
ASSUMED_END = (-0.00104951, -0.00074583, -0.00052735, -0.00026007)


def test_double_gamma_is_the_difference_of_two_gamma_densities() -> None:
    t = np.linspace(-2, 40, 300)
    expected = 1.3 * (gamma.pdf(t - 0.4, 6 / 0.9, scale=0.9) - gamma.pdf(t - 0.4, 16 / 1.1, scale=1.1) / 5)
    np.testing.assert_allclose(double_gamma(t, 6, 16, 0.9, 1.1, 5, 0.4, 1.3), expected, atol=1e-12)


def test_double_gamma_keeps_the_shape_of_times() -> None:
    assert double_gamma(np.zeros((2, 3)), 6, 16, 1, 1, 6, 0, 1).shape == (2, 3)


def test_the_default_library() -> None:
    library = load_default_library()
    assert library.curves.shape == (501, 20)
    assert library.names[0] == "hrf00"
    assert library.names[-1] == "hrf19"
    time_to_peak = library.times[library.curves.argmax(axis=0)]
    assert (np.diff(time_to_peak) >= 0).all(), "the library goes from early to late responses"
    assert 2 < time_to_peak[0] < time_to_peak[-1] < 9


@pytest.mark.parametrize(("duration", "tr", "n_library", "n_assumed"), [(1.0, 2.0, 26, 25), (0.5, 1.6, 32, 31), (2.0, 1.6, 33, 32)])
def test_glmsingle_sampling_has_its_lengths(duration: float, tr: float, n_library: int, n_assumed: int) -> None:
    library = sample_library_glmsingle(load_default_library(), duration, tr)
    assumed = sample_library_glmsingle(load_default_assumed_hrf(), duration, tr, assumed=True)
    assert library.shape == (n_library, 20)
    assert library.dtype == np.float32
    assert assumed.shape == (n_assumed, 1)
    np.testing.assert_array_equal(library.max(axis=0), np.float32(1))


def test_the_assumed_hrf_is_glmsingles() -> None:
    assumed = sample_library_glmsingle(load_default_assumed_hrf(), 2.0, 1.6, assumed=True)[:, 0]
    np.testing.assert_allclose(assumed[:4], ASSUMED_START, atol=1e-3)
    np.testing.assert_allclose(assumed[-4:], ASSUMED_END, atol=1e-5)


@given(duration=st.integers(0, 60).map(lambda tenths: tenths / 10), tr=st.integers(5, 30).map(lambda tenths: tenths / 10))
@settings(max_examples=30, deadline=None)
def test_the_continuous_response_passes_through_glmsingles_samples(duration: float, tr: float) -> None:
    library = load_default_library()
    sampled = sample_library_glmsingle(library, duration, tr)
    # beyond the last knot GLMsingle extrapolates, where the continuous response is 0
    known = np.arange(len(sampled)) * tr <= 50
    continuous = response_at(library, duration, np.arange(len(sampled)) * tr)
    np.testing.assert_allclose((continuous / continuous.max(axis=0))[known], sampled[known], atol=2e-5)


@given(duration=st.floats(0, 20), times=st.lists(st.floats(-100, 200), min_size=1, max_size=20))
@settings(max_examples=50, deadline=None)
def test_responses_are_bounded_and_causal(duration: float, times: list[float]) -> None:
    library = load_default_library()
    response = response_at(library, duration, times)
    assert response.shape == (len(times), 20)
    assert np.isfinite(response).all()
    assert response.max() <= 1
    outside = (np.array(times) < 0) | (np.array(times) > 50.1 + max(duration, 0.1) + 0.02)
    assert not response[outside].any()


def test_the_response_to_a_duration_off_the_tenth_lies_between_its_neighbours() -> None:
    library = load_default_library()
    times = np.arange(0, 40, 0.05)
    below, between, above = (response_at(library, duration, times) for duration in (1.2, 1.25, 1.3))
    np.testing.assert_allclose(between, (below + above) / 2, atol=5e-3)
    assert np.abs(above - below).max() > 3e-2, "durations have to matter for this test to mean anything"


def test_the_response_to_a_long_stimulus_equals_the_integral_of_the_brief_response() -> None:
    library = library_from_parameters([[6, 16, 1, 1, 6, 0, 1]])
    fine = np.arange(0, 60, 0.001)
    brief = double_gamma(fine, 6, 16, 1, 1, 6, 0, 1)
    endless = np.cumsum(brief)
    expected = endless - np.concatenate([np.zeros(7337), endless[:-7337]])
    asked = np.arange(0, 45, 0.7)
    # a stimulus of 7.337 s is the sum of brief responses: half a brief stimulus earlier than the integral
    response = response_at(library, 7.337, asked + 0.05)[:, 0]
    np.testing.assert_allclose(response, np.interp(asked + 0.1, fine, expected / expected.max()), atol=5e-3)


def test_the_peak_is_the_continuous_one() -> None:
    response = response_at(load_default_library(), 2.0, np.arange(0, 30, 0.001))
    np.testing.assert_allclose(response.max(axis=0), 1, atol=1e-9)


def test_times_of_any_shape() -> None:
    library = load_default_library()
    times = np.random.default_rng(0).uniform(-5, 60, (4, 3, 2))
    response = response_at(library, 1.0, times)
    assert response.shape == (4, 3, 2, 20)
    np.testing.assert_array_equal(response.reshape(-1, 20), response_at(library, 1.0, times.ravel()))


def test_durations_below_a_tenth_count_as_a_tenth() -> None:
    library = load_default_library()
    np.testing.assert_array_equal(response_at(library, 0.0, [4.0, 6.0]), response_at(library, 0.1, [4.0, 6.0]))


def test_a_convolved_library_ignores_the_duration() -> None:
    curves = np.array([[0.0, 0.0], [1.0, 4.0], [2.0, 1.0], [0.0, 0.0]])
    library = HRFLibrary(curves, 2.0, convolved=True)
    np.testing.assert_array_equal(sample_library_glmsingle(library, 9.0, 2.0), np.float32(curves / [2.0, 4.0]))
    response = response_at(library, 9.0, np.arange(5) * 2.0)
    np.testing.assert_allclose(response[:4], curves / [2.0, 4.0], atol=1e-12)
    assert not response[4].any()


def test_a_library_at_another_step_gives_the_same_response() -> None:
    library = load_default_library()
    coarse = HRFLibrary(library.curves[::2], 0.2, convolved=False)
    times = np.arange(0, 48, 0.31)
    np.testing.assert_allclose(response_at(coarse, 1.0, times), response_at(library, 1.0, times), atol=1.5e-2)


@pytest.mark.parametrize(
    ("curves", "step"),
    [
        (np.ones(5), 0.1),
        (np.ones((1, 2)), 0.1),
        (np.zeros((5, 2)), 0.1),
        (np.full((5, 2), np.nan), 0.1),
        (np.ones((5, 2)), 0.0),
        (np.ones((5, 2)), math.inf),
    ],
)
def test_bad_libraries_are_refused(curves: np.ndarray, step: float) -> None:
    with pytest.raises(ValueError, match="HRF"):
        HRFLibrary(curves, step, convolved=False)


@pytest.mark.parametrize("duration", [-0.1, math.nan, math.inf])
def test_bad_durations_are_refused(duration: float) -> None:
    with pytest.raises(ValueError, match="duration"):
        response_at(load_default_library(), duration, [1.0])
    with pytest.raises(ValueError, match="duration"):
        sample_library_glmsingle(load_default_library(), duration, 2.0)


def test_bad_repetition_times_are_refused() -> None:
    with pytest.raises(ValueError, match="repetition time"):
        sample_library_glmsingle(load_default_library(), 1.0, 0.0)


def test_a_table_with_a_time_column(tmp_path: Path) -> None:
    path = tmp_path / "library.tsv"
    path.write_text("early\ttime\tlate\n0\t0\t0\n1\t0.5\t0\n.5\t1.0\t2\n0\t1.5\t1\n")
    library = read_hrf_table(path, 2.0)
    assert (library.step, library.convolved, library.names) == (0.5, False, ("early", "late"))
    np.testing.assert_array_equal(library.curves, [[0, 0], [1, 0], [0.5, 2], [0, 1]])


def test_a_table_of_numbers_is_at_the_repetition_time(tmp_path: Path) -> None:
    path = tmp_path / "library.tsv"
    path.write_text("0 0\n1 .5\n\n0 1\n")
    library = read_hrf_table(path, 1.6)
    assert (library.step, library.convolved, library.n_hrfs) == (1.6, True, 2)
    np.testing.assert_array_equal(library.curves, [[0, 0], [1, 0.5], [0, 1]])


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        ("time\ta\n0\t0\n1\t1\n2\tnan\n", "line 4", "'nan'"),
        ("0\t0\n1\tn/a\n2\t0\n", "line 2", "'n/a'"),
        ("0\t0\n1\tinf\n2\t0\n", "line 2", "'inf'"),
        ("0\t0\n1\n2\t0\n", "line 2", "1 columns"),
        ("time\ta\tb\n0\t0\t0\n1\t1\t0\n2\t0\t0\n", "lines 2 to 4", "column 3"),
        ("0\t0\n1\t0\n", "lines 1 to 2", "column 2"),
        ("time\ta\n0\t0\n1\t1\n3\t0\n4\t0\n", "line 3", "uniform"),
        ("time\ta\n1\t0\n2\t1\n", "line 2", "has to be 0"),
        ("time\ta\n0\t0\n0\t1\n", "line 3", "do not rise"),
        ("t\ta\n0\t0\n1\t1\n", "line 1", "no column `time`"),
        ("time\n0\n1\n", "line 1", "no HRF"),
        ("time\ta\ta\n0\t0\t0\n1\t1\t1\n", "line 1", "same name"),
        ("time\ta\n0\t1\n", "line 2", "two samples"),
        ("", "line 1", "empty"),
    ],
)
def test_bad_tables_name_file_and_line(tmp_path: Path, text: str, line: str, what: str) -> None:
    path = tmp_path / "bad.tsv"
    path.write_text(text)
    with pytest.raises(UnusableInputError) as caught:
        read_hrf_table(path, 2.0)
    message = str(caught.value)
    assert str(path) in message
    assert line in message
    assert what in message


def test_a_binary_table_is_unusable(tmp_path: Path) -> None:
    path = tmp_path / "bad.tsv"
    path.write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(UnusableInputError, match="not a text table"):
        read_hrf_table(path, 2.0)


def test_an_absent_table_is_missing(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match="nothere"):
        read_hrf_table(tmp_path / "nothere.tsv", 2.0)
