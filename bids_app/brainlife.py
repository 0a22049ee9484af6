"""A conform app on brainlife.io: config.json in, a BIDS tree staged, the image run, product.json out. Standard library only.

``python3 bids_app/brainlife.py APP`` is what ``bids_app/<app>/brainlife/main`` calls, in the folder of the task. config.json names inputs
by the keys of `FOLDERS` (or `LOOSE`: files of one run), and options by the names of the app's settings (``"components": 3``, ``"task_id":
["a", "b"]``; booleans are flags). ``_inputs[].meta`` says subject, session, task and run. The results are in ``output``.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

__all__ = ["FOLDERS", "LOOSE", "main"]

FOLDERS = {
    "glm": {"fmriprep": "fmriprep"},
    "psn": {"conform_glm": "conform-glm"},
    "align": {"conform_glm": "conform-glm", "conform_psn": "conform-psn"},
    "encode": {"conform_glm": "conform-glm", "conform_psn": "conform-psn", "conform_align": "conform-align"},
}
"""Derivatives that an app reads: key of config.json, and name of the dataset."""
LOOSE = ("bold", "mask", "confounds", "events")
"""Files of one preprocessed run, for conform-glm, where there is no fMRIPrep folder."""
FILES = {"encode": ("features", "model"), "psn": ("split",), "align": ("template", "split"), "glm": ("split",)}
"""Options whose value is a file or a folder, by app."""
TAKEN = ("_inputs", "_app", "_tid", "_outputs", "_rule", "bids", "level")


class ConfigError(Exception):
    """config.json cannot be run; the message says why."""


def main(app: str, folder: Path) -> int:
    """Run an app by the config.json of a folder; the exit status is that of the app, and 2 for a config that cannot be run."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            raise ConfigError("config.json: not an object")
        command = stage(app, config, folder)
    except (OSError, ValueError, ConfigError) as error:
        print(f"brainlife: {error}", file=sys.stderr)
        _product(folder, app, 2)
        return 2
    print("$ " + " ".join(command), flush=True)
    try:
        code = subprocess.run(command, cwd=folder, check=False).returncode
    except FileNotFoundError:
        print(f"brainlife: {command[0]} is not installed", file=sys.stderr)
        code = 127
    code = 128 - code if code < 0 else code
    _product(folder, app, code)
    return code


def stage(app: str, config: dict[str, Any], folder: Path) -> list[str]:
    """Make the BIDS tree in ``folder/bids``, and the command that runs the app on it.

    Parameters
    ----------
    app : str
        ``glm``, ``psn``, ``align`` or ``encode``.
    config : dict
        Of config.json.
    folder : Path
        Of the task.

    Raises
    ------
    ConfigError
        When an input is missing.
    """
    meta = _meta(config)
    tree = folder / "bids"
    shutil.rmtree(tree, ignore_errors=True)
    tree.mkdir()
    if config.get("bids"):
        for entry in sorted(_input(config, "bids", folder).iterdir()):
            if entry.name != "derivatives":
                (tree / entry.name).symlink_to(entry.resolve())
    if not (tree / "dataset_description.json").exists():
        _describe(tree, "raw")
    given = {key: name for key, name in FOLDERS[app].items() if config.get(key)}
    for key, name in given.items():
        target = tree / "derivatives" / name
        target.parent.mkdir(exist_ok=True)
        target.symlink_to(_input(config, key, folder).resolve())
    if not given:
        if app != "glm" or not config.get("bold"):
            loose = ", or loose files: bold, events, confounds, mask" if app == "glm" else ""
            raise ConfigError(f"config.json names no input: one of {', '.join(FOLDERS[app])} is needed{loose}")
        _stage_loose(config, meta, tree, folder)
    level = str(config.get("level", "participant"))
    image = os.environ.get("CONFORM_IMAGE", f"docker://conform/{app}")
    engine = "apptainer" if shutil.which("apptainer") or not shutil.which("singularity") else "singularity"
    command = [
        engine,
        "run",
        "--cleanenv",
        "--bind",
        str(folder),
        image,
        str(tree),
        str(folder / "output"),
        level,
        "-w",
        str(folder / "work"),
    ]
    if level == "participant" and meta.get("subject"):
        command += ["--participant-label", str(meta["subject"])]
    return [*command, *_options(app, config, folder)]


def _meta(config: dict[str, Any]) -> dict[str, Any]:
    """Subject, session, task and run of the inputs."""
    found: dict[str, Any] = {}
    for entry in config.get("_inputs") or []:
        found = {**found, **{key: value for key, value in (entry.get("meta") or {}).items() if value not in (None, "")}}
    return found


def _input(config: dict[str, Any], key: str, folder: Path) -> Path:
    path = Path(str(config[key]))
    path = path if path.is_absolute() else folder / path
    if not path.exists():
        raise ConfigError(f"config.json: {key}: there is no {path}")
    return path


def _describe(folder: Path, kind: str, **fields: Any) -> None:
    content = {"Name": "brainlife task", "BIDSVersion": "1.10.0", "DatasetType": kind, **fields}
    (folder / "dataset_description.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _stage_loose(config: dict[str, Any], meta: dict[str, Any], tree: Path, folder: Path) -> None:
    """One preprocessed run as fMRIPrep would have named it."""
    absent = [key for key in ("bold", "events", "confounds") if not config.get(key)]
    if absent:
        raise ConfigError(f"config.json: {absent[0]} is missing: loose files are bold, events and confounds, and a mask")
    labels = {"sub": meta.get("subject", "01"), "ses": meta.get("session"), "task": meta.get("task", "task"), "run": meta.get("run")}
    clean = {key: "".join(letter for letter in str(value) if letter.isalnum()) for key, value in labels.items() if value}
    stem = "_".join(f"{key}-{value}" for key, value in clean.items())
    space = str(config.get("space", "MNI152NLin2009cAsym"))
    inside = Path(f"sub-{clean['sub']}", *([f"ses-{clean['ses']}"] if "ses" in clean else []), "func")
    derivative = tree / "derivatives" / "fmriprep"
    for place in (tree / inside, derivative / inside):
        place.mkdir(parents=True)
    _describe(derivative, "derivative", GeneratedBy=[{"Name": "fMRIPrep"}])
    bold = _input(config, "bold", folder)
    names = {
        "events": tree / inside / f"{stem}_events.tsv",
        "confounds": derivative / inside / f"{stem}_desc-confounds_timeseries.tsv",
        "mask": derivative / inside / f"{stem}_space-{space}_desc-brain_mask.nii.gz",
        "bold": derivative / inside / f"{stem}_space-{space}_desc-preproc_bold.nii.gz",
    }
    for key, target in names.items():
        if config.get(key):
            target.symlink_to(_input(config, key, folder).resolve())
    time = config.get("repetition_time")
    if time is None:
        beside = bold.with_name(bold.name.split(".")[0] + ".json")
        time = json.loads(beside.read_text(encoding="utf-8")).get("RepetitionTime") if beside.is_file() else None
    if time is not None:
        sidecar = names["bold"].with_name(names["bold"].name.replace(".nii.gz", ".json"))
        sidecar.write_text(json.dumps({"RepetitionTime": float(time), "TaskName": clean["task"]}) + "\n", encoding="utf-8")


def _options(app: str, config: dict[str, Any], folder: Path) -> list[str]:
    """Flags for all that is not an input."""
    inputs = {*FOLDERS[app], *(LOOSE if app == "glm" else ()), *TAKEN, *(("space", "repetition_time") if app == "glm" else ())}
    words: list[str] = []
    for key, value in config.items():
        if key in inputs or key.startswith("_") or value in (None, "", [], False):
            continue
        words.append("--" + key.replace("_", "-"))
        if value is True:
            continue
        values = value if isinstance(value, list) else [value]
        if key in FILES.get(app, ()):
            values = [str(path) if (path := folder / str(item)).exists() else str(item) for item in values]
        words += [str(item) for item in values]
    return words


def _product(folder: Path, app: str, code: int) -> None:
    """What brainlife shows of the task: the reports, or that it failed."""
    reports = sorted((folder / "output").glob("sub-*.html")) + sorted((folder / "output").glob("group_*.html"))
    shown = [{"type": "html", "name": path.stem, "path": f"output/{path.name}"} for path in reports]
    told = {0: ("success", f"conform-{app} completed")}.get(code, ("error", f"conform-{app} ended with exit status {code}"))
    content = {"tags": [f"conform-{app}"], "brainlife": [*shown, {"type": told[0], "msg": told[1]}]}
    (folder / "product.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path.cwd()))
