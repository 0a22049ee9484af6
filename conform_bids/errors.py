"""Errors that say what is wrong with the input, and the exit code they stand for.

A message names the file (and the line where there is one) and says what to do next; it is shown to the user
without a traceback. Everything else that is raised counts as a bug of ours.
"""

from __future__ import annotations

__all__ = ["ConformError", "MissingInputError", "NoTrialsError", "UnusableInputError", "UsageError"]


class ConformError(Exception):
    """Base of the errors that a user can mend. ``exit_code`` follows sysexits.h where it can."""

    exit_code = 70


class UsageError(ConformError):
    """Options that contradict each other, or folders that must not be used like this (exit 2)."""

    exit_code = 2


class UnusableInputError(ConformError):
    """Input that is there but cannot be used: corrupt, inconsistent, not a BIDS dataset (exit 65, EX_DATAERR)."""

    exit_code = 65


class MissingInputError(ConformError):
    """Input that is absent, or a label that matches nothing (exit 66, EX_NOINPUT)."""

    exit_code = 66


class NoTrialsError(MissingInputError):
    """Runs whose events hold no trial to model; others of the participant may have some."""
