"""The BIDS validator on what a run reads of the raw dataset: the asked participants' functional files, offline.

It sees a shadow of the dataset made of links, so that neither other participants nor derivatives cost time, and a
sparse checkout (one participant of a DataLad dataset) is no error.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from conform_bids.errors import UnusableInputError
from conform_bids.wording import counted

__all__ = ["validate_raw"]

_TIMEOUT_S = 1800
_SHOWN = 20
# The rest of the dataset is judged by nobody here: participants that are not checked out, images whose content is not
# (fMRIPrep's are read, not these), stimuli that are not shared. Values in events are judged trial by trial by the app.
_TOLERATED: Mapping[str, tuple[str, ...]] = {
    "PARTICIPANT_ID_MISMATCH": ("",),
    "STIMULUS_FILE_MISSING": ("",),
    "SYMLINK_BROKEN": (".nii", ".nii.gz"),
    "EMPTY_FILE": (".nii", ".nii.gz"),
    "FILE_READ": (".nii", ".nii.gz"),
    "NIFTI_HEADER_UNREADABLE": ("",),
    "TSV_VALUE_INCORRECT_TYPE": ("_events.tsv",),
    "TSV_VALUE_INCORRECT_TYPE_NONREQUIRED": ("_events.tsv",),
}


def validate_raw(raw: Path, participants: Sequence[str], sessions: Sequence[str] = ()) -> tuple[str, ...]:
    """Validate the functional files of some participants.

    Parameters
    ----------
    raw : Path
        Raw dataset.
    participants, sessions : sequence of str
        Labels without prefix; no sessions means all.

    Returns
    -------
    tuple of str
        A warning when the validator could not run.

    Raises
    ------
    UnusableInputError
        Listing the validator's errors.
    """
    with tempfile.TemporaryDirectory(prefix="conform-validate-") as folder:
        shadow = Path(folder)
        _link_shadow(raw, shadow, participants, sessions)
        try:
            report = _run_validator(shadow)
        except (ImportError, OSError, ValueError, subprocess.TimeoutExpired) as error:
            return (f"the BIDS validator could not run, so {raw} was not validated: {error}",)
    errors = [issue for issue in report if issue.get("severity") == "error" and not _is_tolerated(issue)]
    if errors:
        lines = [_describe(issue) for issue in errors[:_SHOWN]]
        if len(errors) > _SHOWN:
            lines.append(f"and {len(errors) - _SHOWN} more")
        raise UnusableInputError(
            f"{raw}: the BIDS validator finds {counted(len(errors), 'error')} "
            "(mend them, or use --skip-bids-validation):\n  " + "\n  ".join(lines)
        )
    return ()


def _link_shadow(raw: Path, shadow: Path, participants: Sequence[str], sessions: Sequence[str]) -> None:
    raw = raw.absolute()
    for entry in os.scandir(raw):
        if not entry.is_dir():
            os.symlink(entry.path, shadow / entry.name)
    for participant in participants:
        for folder, folders, files in os.walk(raw / f"sub-{participant}"):
            relative = Path(folder).relative_to(raw)
            if len(relative.parts) == 1:
                wanted = {f"ses-{session}" for session in sessions}.intersection(folders)  # none when 1 was asked for and is called 01
                folders[:] = [name for name in folders if name == "func" or (name.startswith("ses-") and (not wanted or name in wanted))]
            elif relative.name.startswith("ses-"):
                folders[:] = [name for name in folders if name == "func"]
            target = shadow / relative
            target.mkdir(parents=True, exist_ok=True)
            for name in files:
                if relative.name == "func" or name.endswith((".json", ".tsv")):
                    os.symlink(os.path.join(folder, name), target / name)


def _run_validator(shadow: Path) -> list[dict[str, Any]]:
    import bids_validator_deno  # type: ignore[import-untyped]
    from deno import find_deno_bin  # type: ignore[import-untyped]

    # The package's own entry point allows the network; without the permission deno cannot reach it.
    bundle = Path(bids_validator_deno.__file__).with_name("bids-validator.js")
    command = [os.fsdecode(find_deno_bin()), "run", "--no-prompt", "--allow-read", "--allow-env", str(bundle)]
    command += [str(shadow), "--format", "json", "--ignoreNiftiHeaders", "--ignoreWarnings"]
    environment = {**os.environ, "DENO_NO_UPDATE_CHECK": "1", "NO_COLOR": "1"}
    environment.pop("BIDS_SCHEMA", None)  # a schema of the user's for another validation
    done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, env=environment, check=False)
    start = done.stdout.find("{")
    if start < 0:
        last = (done.stderr or done.stdout).strip().splitlines()
        raise ValueError(f"exit status {done.returncode}, {last[-1] if last else 'no output'}")
    issues: list[dict[str, Any]] = json.loads(done.stdout[start:])["issues"]["issues"]
    return issues


def _is_tolerated(issue: Mapping[str, Any]) -> bool:
    endings = _TOLERATED.get(str(issue.get("code")))
    return endings is not None and str(issue.get("location", "")).endswith(endings)


def _describe(issue: Mapping[str, Any]) -> str:
    code = " ".join(str(issue[key]) for key in ("code", "subCode") if issue.get(key))
    message = " ".join(str(issue.get("issueMessage") or "").split())
    line = f":{issue['line']}" if issue.get("line") else ""
    return f"{issue.get('location', '')}{line}: {code}{': ' + message if message else ''}"
