"""The trial filter: pandas' answers where pandas has one, False for what is missing, and no text makes it do anything else."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conform_bids.bids.filters import compile_trial_filter
from conform_bids.errors import UsageError

EVENTS = pd.DataFrame(
    {
        "onset": [0.0, 2.5, 5.0, 7.5],
        "trial_type": ["face", "house", None, "it's"],
        "rt": ["0.5", None, "1.25", "late"],
        "run code": ["01", "1", "2", None],
        "correct": ["true", "false", "1", None],
        "stim.file": ["a.png", "b.png", "a.png", "c.png"],
        "größe": ["1", "2", "3", "4"],
    },
    index=pd.Index([2, 3, 5, 9], name="line"),
)


@pytest.mark.parametrize(
    ("expression", "kept"),
    [
        ("onset > 2", [0, 1, 1, 1]),
        ("onset >= 2.5 and onset < 7.5", [0, 1, 1, 0]),
        ("2.5 <= onset", [0, 1, 1, 1]),
        ("onset == 2.50", [0, 1, 0, 0]),
        ("onset == '2.50'", [0, 1, 0, 0]),
        ("onset > -1e-3", [1, 1, 1, 1]),
        ("trial_type == 'face'", [1, 0, 0, 0]),
        ("'face' == trial_type", [1, 0, 0, 0]),
        ("trial_type == \"it's\" or trial_type == 'it\\'s'", [0, 0, 0, 1]),
        ("trial_type != 'face'", [0, 1, 0, 1]),
        ("not trial_type == 'face'", [0, 1, 1, 1]),
        ("trial_type == 'n/a'", [0, 0, 1, 0]),
        ("trial_type != 'n/a'", [1, 1, 0, 1]),
        ("trial_type < 'n/a'", [0, 0, 0, 0]),
        ("trial_type in ['face', 'house']", [1, 1, 0, 0]),
        ("trial_type not in ('face', 'house')", [0, 0, 0, 1]),
        ("not trial_type in ['face']", [0, 1, 1, 1]),
        ("trial_type in ['n/a', 'face']", [1, 0, 1, 0]),
        ("trial_type not in ['n/a', 'face']", [0, 1, 0, 1]),
        ("trial_type not in []", [1, 1, 0, 1]),
        ("onset in [0, 5,]", None),
        ("onset in [0, 5]", [1, 0, 1, 0]),
        ("rt < 1", [1, 0, 0, 0]),
        ("rt != 0.5", [0, 0, 1, 1]),
        ("rt == 'late'", [0, 0, 0, 1]),
        ("rt <= 'late'", [1, 0, 1, 1]),
        ("`run code` == '01'", [1, 0, 0, 0]),
        ("`run code` == 1", [1, 1, 0, 0]),
        ("correct", [1, 0, 1, 0]),
        ("not correct", [0, 1, 0, 1]),
        ("correct == true", [1, 0, 1, 0]),
        ("correct == false", [0, 1, 0, 0]),
        ("correct in [true]", [1, 0, 1, 0]),
        ("true", [1, 1, 1, 1]),
        ("false or 0", [0, 0, 0, 0]),
        ("stim.file == 'a.png' and not (onset < 1 or onset > 6)", [0, 0, 1, 0]),
        ("größe > 2", [0, 0, 1, 1]),
        ("onset > größe", [0, 1, 1, 1]),
        ("rt == trial_type", [0, 0, 0, 0]),
        ("onset < 1 or onset > 6 and rt == 'late'", [1, 0, 0, 1]),
        ("1 == 1", [1, 1, 1, 1]),
        ("\n onset\t>2 ", [0, 1, 1, 1]),
        ("onset>2and onset<6", [0, 1, 1, 0]),
    ],
)
def test_what_is_kept(expression: str, kept: list[int] | None) -> None:
    if kept is None:
        with pytest.raises(UsageError):
            compile_trial_filter(expression)
        return
    result = compile_trial_filter(expression)(EVENTS)
    assert result.dtype == bool
    assert result.tolist() == [bool(value) for value in kept]


@pytest.mark.parametrize(
    ("expression", "position", "reason"),
    [
        ("", 1, "ends too early"),
        ("onset =  2", 7, "equality is `==`"),
        ("onset > 2 & onset < 3", 11, "write `and`"),
        ("onset > 2 | rt < 3", 11, "write `or`"),
        ("!correct", 1, "write `not`"),
        ("onset > ", 8, "ends too early"),
        ("onset > 2)", 10, "unexpected '\\)'"),
        ("(onset > 2", 11, "closing parenthesis"),
        ("0 < onset < 3", 11, "unexpected '<'"),
        ("onset not 3", 11, "expected `in`"),
        ("onset in 3", 10, "expected a list"),
        ("onset in [a]", 11, "number or quoted text"),
        ("onset in [1 2]", 13, "expected `,`"),
        ("onset in [1, 2)", 15, "expected `,` or `\\]`"),
        ("trial_type == 'face", 15, "not closed"),
        ("`onset > 2", 1, "not closed"),
        ("onset > and", 9, "expected a column"),
        ("__import__('os').system('true')", 17, "unexpected"),
        ("onset; rt", 6, "unexpected ';'"),
        ("(" * 60 + "true" + ")" * 60, 51, "deep"),
        ("not " * 5000 + "true", 201, "deep"),
    ],
)
def test_faults_are_named_by_position(expression: str, position: int, reason: str) -> None:
    with pytest.raises(UsageError, match=reason) as caught:
        compile_trial_filter(expression)
    assert f"position {position} of" in str(caught.value)
    assert str(caught.value).startswith("--trial-filter: ")
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(("expression", "position"), [("onset > 1 and face == 2", 15), ("`no such` == 2", 2), ("trial_type == face", 15)])
def test_unknown_columns_list_those_there_are(expression: str, position: int) -> None:
    condition = compile_trial_filter(expression)
    with pytest.raises(UsageError, match="the events have onset, trial_type, rt") as caught:
        condition(EVENTS)
    assert f"position {position} of" in str(caught.value)


def test_text_alone_is_no_condition() -> None:
    with pytest.raises(UsageError, match=r"position 5 .*'trial_type' is no condition"):
        compile_trial_filter("not trial_type")(EVENTS)


def test_no_events_keep_none() -> None:
    assert compile_trial_filter("onset > 1 and trial_type in ['a'] or not correct")(EVENTS.iloc[:0]).shape == (0,)


def test_long_chains_are_no_deep_ones() -> None:
    expression = " or ".join(f"onset == {k}" for k in range(5000))
    assert compile_trial_filter(expression)(EVENTS).tolist() == [True, False, True, False]


TOKENS = [
    "onset",
    "trial_type",
    "and",
    "or",
    "not",
    "in",
    "==",
    "<",
    "(",
    ")",
    "[",
    "]",
    ",",
    "'a'",
    "1",
    "-2.5",
    "true",
    "`run code`",
    "x",
    "=",
    '"',
]


@settings(max_examples=300)
@given(st.text(max_size=40) | st.lists(st.sampled_from(TOKENS), max_size=12).map(" ".join))
def test_any_text_is_a_filter_or_a_usage_error(expression: str) -> None:
    try:
        result = compile_trial_filter(expression)(EVENTS)
    except UsageError:
        return
    assert result.shape == (4,)


NUMBERS = pd.DataFrame({"a": [0.0, 1.5, -2.0, 3.0, 1.5], "b": [0, 1, 2, 3, -1], "t": ["x", "y", "z", "x", "it"]})
_numbers = st.sampled_from(["0", "1", "1.5", "-2", "3.0"])
_texts = st.sampled_from(["'x'", '"y"', "'it'", "'nothing'"])
_orders = st.sampled_from(["==", "!=", "<", "<=", ">", ">="])
_tests = st.one_of(
    st.tuples(st.sampled_from("ab"), _orders, _numbers | st.sampled_from("ab")).map(" ".join),
    st.tuples(st.just("t"), _orders, _texts).map(" ".join),
    st.tuples(st.sampled_from("ab"), st.sampled_from(["in", "not in"]), st.lists(_numbers, min_size=1, max_size=3)).map(
        lambda parts: f"{parts[0]} {parts[1]} [{', '.join(parts[2])}]"
    ),
    st.tuples(st.sampled_from(["in", "not in"]), st.lists(_texts, min_size=1, max_size=3)).map(
        lambda parts: f"t {parts[0]} [{', '.join(parts[1])}]"
    ),
)
_expressions = st.recursive(
    _tests,
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["and", "or"]), inner).map(" ".join), inner.map("({})".format), inner.map("not ({})".format)
    ),
    max_leaves=6,
)


@settings(max_examples=150)
@given(_expressions)
def test_agrees_with_pandas(expression: str) -> None:
    expected = NUMBERS.eval(expression, engine="python")
    np.testing.assert_array_equal(compile_trial_filter(expression)(NUMBERS), expected)
