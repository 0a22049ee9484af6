"""`--trial-filter`: comparisons, ``in``, ``and``, ``or``, ``not`` over the columns of the events, by a parser of ours.

Grammar::

    either     := both ("or" both)*
    both       := negated ("and" negated)*
    negated    := "not" negated | "(" either ")" | test
    test       := operand [comparison operand | ["not"] "in" list]
    list       := ("[" | "(") [literal ("," literal)*] ("]" | ")")
    operand    := column | literal
    literal    := number | 'text' | "text" | true | false

A column whose name is not a plain word stands in backticks. A number compares with the numbers in a column, quoted text with its
text. A comparison with a missing value is False; ``column == 'n/a'`` asks for it. Nothing is ever evaluated as Python.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from conform_bids.bids.tables import parse_number
from conform_bids.errors import UsageError

__all__ = ["TrialFilter", "compile_trial_filter"]

TrialFilter = Callable[[pd.DataFrame], NDArray[np.bool_]]
"""Takes events, gives True for each row that is kept."""

_MAX_DEPTH = 50
_COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_TOKEN = re.compile(
    r"""\s*(?:
      (?P<number>[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)
    | (?P<text>'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")
    | `(?P<column>[^`]+)`
    | (?P<word>[^\W\d]\w*(?:\.\w+)*)
    | (?P<symbol>==|!=|<=|>=|<|>|\(|\)|\[|\]|,)
    )""",
    re.VERBOSE | re.DOTALL,
)


@dataclass(frozen=True)
class _Token:
    kind: str  # number, text, column, word, symbol or end
    value: str
    position: int  # counted from 1


@dataclass(frozen=True)
class _Cell:
    """A value as text and, where it is one, as a number."""

    text: str
    number: float | None
    quoted: bool = False  # a literal in quotes: compares as text
    native: bool = False  # from a column of numbers: has no text of its own

    @property
    def is_missing_literal(self) -> bool:
        return self.quoted and self.text == "n/a"


_Operand = Callable[[pd.DataFrame], "Sequence[_Cell | None]"]


def compile_trial_filter(expression: str) -> TrialFilter:
    """Compile a filter.

    Parameters
    ----------
    expression : str
        As ``trial_type == 'image' and response_time < 2``.

    Returns
    -------
    callable
        Takes a DataFrame of events, returns a bool array ``(n_events,)``; raises `UsageError` when it has no such column.

    Raises
    ------
    UsageError
        With the position, when the expression is not well formed.
    """
    return _Parser(expression).parse()


def _tokens(expression: str) -> list[_Token]:
    tokens, position = [], 0
    end = len(expression.rstrip())
    while position < end:
        match = _TOKEN.match(expression, position)
        if match is None or match.lastgroup is None:
            start = position + len(expression[position:]) - len(expression[position:].lstrip())
            raise _error(expression, start + 1, _unexpected(expression[start]))
        tokens.append(_Token(match.lastgroup, match.group(match.lastgroup), match.start(match.lastgroup) + 1))
        position = match.end()
    return [*tokens, _Token("end", "the end", end + 1)]


def _unexpected(character: str) -> str:
    hints = {"=": "; equality is `==`", "&": "; write `and`", "|": "; write `or`", "~": "; write `not`", "!": "; write `not`"}
    if character in "'\"`":
        return f"{character} is not closed"
    return f"unexpected {character!r}{hints.get(character, '')}"


def _error(expression: str, position: int, reason: str) -> UsageError:
    shown = expression if len(expression) <= 120 else f"{expression[max(0, position - 60) : position + 60]}..."
    return UsageError(f"--trial-filter: position {position} of {shown!r}: {reason}")


class _Parser:
    def __init__(self, expression: str) -> None:
        self.expression = expression
        self.tokens = _tokens(expression)
        self.next = 0
        self.depth = 0

    def parse(self) -> TrialFilter:
        condition = self.either()
        if self.token.kind != "end":
            raise self.error(f"unexpected {self.token.value!r}; join conditions with `and` or `or`")
        return condition

    @property
    def token(self) -> _Token:
        return self.tokens[self.next]

    def take(self, *values: str) -> _Token | None:
        """Consume the next token if it is one of these words or symbols."""
        token = self.token
        if token.kind not in ("word", "symbol") or token.value not in values:
            return None
        self.next += 1
        return token

    def error(self, reason: str, token: _Token | None = None) -> UsageError:
        return _error(self.expression, (token or self.token).position, reason)

    def either(self) -> TrialFilter:
        conditions = [self.both()]
        while self.take("or"):
            conditions.append(self.both())
        return conditions[0] if len(conditions) == 1 else lambda events: np.logical_or.reduce([each(events) for each in conditions])

    def both(self) -> TrialFilter:
        conditions = [self.negated()]
        while self.take("and"):
            conditions.append(self.negated())
        return conditions[0] if len(conditions) == 1 else lambda events: np.logical_and.reduce([each(events) for each in conditions])

    def negated(self) -> TrialFilter:
        self.depth += 1
        if self.depth > _MAX_DEPTH:
            raise self.error(f"nested more than {_MAX_DEPTH} deep")
        if self.take("not"):
            inner = self.negated()
            condition: TrialFilter = lambda events: ~inner(events)  # noqa: E731
        elif self.take("("):
            condition = self.either()
            if not self.take(")"):
                raise self.error("a closing parenthesis is missing")
        else:
            condition = self.test()
        self.depth -= 1
        return condition

    def test(self) -> TrialFilter:
        first = self.token
        left = self.operand()
        symbol = self.take(*_COMPARISONS)
        if symbol:
            return _comparison(_COMPARISONS[symbol.value], left, self.operand())
        negate = self.take("not")
        if self.take("in"):
            return _membership(left, self.literals(), negate=bool(negate))
        if negate:
            raise self.error("expected `in` after `not`")
        return self._truth(first, left)

    def _truth(self, token: _Token, operand: _Operand) -> TrialFilter:
        """A column (or true, false) on its own, as a condition."""

        def condition(events: pd.DataFrame) -> NDArray[np.bool_]:
            cells = operand(events)
            if any(cell is not None and cell.number is None for cell in cells):
                raise self.error(f"{token.value!r} is no condition: compare it with something", token)
            return np.array([cell is not None and bool(cell.number) for cell in cells], dtype=bool)

        return condition

    def operand(self) -> _Operand:
        token = self.token
        literal = self.literal()
        if literal is not None:
            return lambda events: [literal] * len(events)
        if token.kind == "column" or (token.kind == "word" and token.value not in ("and", "or", "not", "in")):
            self.next += 1
            return lambda events: self._column(events, token)
        raise self.error(f"expected a column, a number or quoted text, not {token.value!r}" if token.kind != "end" else "it ends too early")

    def _column(self, events: pd.DataFrame, token: _Token) -> Sequence[_Cell | None]:
        if token.value not in events.columns:
            there = ", ".join(str(name) for name in events.columns)
            hint = " (text goes in quotes)" if token.kind == "word" else ""
            raise self.error(f"no column {token.value!r}{hint}; the events have {there}", token)
        return [_cell(value) for value in events[token.value].tolist()]

    def literal(self) -> _Cell | None:
        token = self.token
        if token.kind == "number":
            cell = _Cell(token.value, float(token.value))
        elif token.kind == "text":
            text = re.sub(r"\\(['\"\\])", r"\1", token.value[1:-1])
            cell = _Cell(text, parse_number(text), quoted=True)
        elif token.kind == "word" and token.value in ("true", "false"):
            cell = _Cell(token.value, float(token.value == "true"))
        else:
            return None
        self.next += 1
        return cell

    def literals(self) -> list[_Cell]:
        opening = self.take("[", "(")
        if opening is None:
            raise self.error("expected a list, as in [1, 2] or ['a', 'b']")
        closing = {"[": "]", "(": ")"}[opening.value]
        cells: list[_Cell] = []
        while not self.take(closing):
            if cells and not self.take(","):
                raise self.error(f"expected `,` or `{closing}`")
            cell = self.literal()
            if cell is None:
                raise self.error("expected a number or quoted text in the list")
            cells.append(cell)
        return cells


def _cell(value: Any) -> _Cell | None:
    if value is None or value is pd.NA or value != value:
        return None
    if isinstance(value, bool | np.bool_):
        return _Cell(str(value).lower(), float(value))
    if isinstance(value, int | float | np.number):
        return _Cell(f"{value:.15g}", float(value), native=True)
    text = str(value)
    truth = {"true": 1.0, "false": 0.0}.get(text.lower())
    return _Cell(text, parse_number(text) if truth is None else truth)


def _compare(compare: Callable[[Any, Any], bool], left: _Cell | None, right: _Cell | None) -> bool:
    for one, other in ((left, right), (right, left)):
        if one is not None and one.is_missing_literal:
            matches = other is None or other.text == "n/a"
            return matches if compare is operator.eq else not matches if compare is operator.ne else False
    if left is None or right is None:
        return False
    by_number = left.native or right.native or not (left.quoted or right.quoted)
    if by_number and left.number is not None and right.number is not None:
        return compare(left.number, right.number)
    from_columns = not (left.quoted or right.quoted)
    if by_number and not (from_columns and left.number is None and right.number is None):
        return compare is operator.ne  # a number and text are different, and neither is larger
    return compare(left.text, right.text)


def _comparison(compare: Callable[[Any, Any], bool], left: _Operand, right: _Operand) -> TrialFilter:
    def condition(events: pd.DataFrame) -> NDArray[np.bool_]:
        pairs = zip(left(events), right(events), strict=True)
        return np.array([_compare(compare, one, other) for one, other in pairs], dtype=bool)

    return condition


def _membership(operand: _Operand, members: Sequence[_Cell], *, negate: bool) -> TrialFilter:
    asks_missing = any(member.is_missing_literal for member in members)

    def condition(events: pd.DataFrame) -> NDArray[np.bool_]:
        cells = operand(events)
        found = np.array([any(_compare(operator.eq, cell, member) for member in members) for cell in cells], dtype=bool)
        if not negate:
            return found
        present = np.array([cell is not None for cell in cells], dtype=bool)
        return ~found & (present | asks_missing)

    return condition
