"""The level group: a population model of the people of a store, scored on each of them left out, and the table and page of all models."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from conform_bids import __version__
from conform_bids.bids.derivatives import write_tsv
from conform_bids.bids.trials import hash_stimuli
from conform_bids.encode.features import find_feature_files
from conform_bids.encode.model_files import ModelCard, write_model
from conform_bids.encode.numerics.teamwork import ALONE, Team
from conform_bids.encode.people import StorePerson, features_of_contents, read_person, usable_units
from conform_bids.encode.processes import joined
from conform_bids.encode.report import write_group_report
from conform_bids.encode.settings import EncodeSettings
from conform_bids.encode.training import TrainingOptions, context_range, leave_people_out, n_tasks, summarise, train
from conform_bids.errors import MissingInputError, UnusableInputError, UsageError
from conform_bids.jobs import GroupInputs, Resources
from conform_bids.numerics.compute import limit_threads
from conform_bids.stimuli.feature_files import read_features
from conform_bids.stimuli.features import FeatureTable
from conform_bids.store.manifest import versions
from conform_bids.store.reading import Store

__all__ = ["help_group", "run_group"]

MIN_SHARED = 50
LOSSES = "losses.tsv"
_LOGGER = logging.getLogger("nipype.interface")


def run_group(
    output_dir: Path,
    participants: Sequence[str],
    settings: EncodeSettings,
    about: Mapping[str, str],
    resources: Resources,
    work_dir: Path,
    *,
    inputs: GroupInputs,
) -> list[Path]:
    """Train a population model where there is a store, and report on all encoding models of the output folder.

    Parameters
    ----------
    output_dir : Path
    participants : sequence of str
        That have encoding models of their own in the output folder; labels without ``sub-``.
    settings : EncodeSettings
    about : mapping
        Versions and the like, for reports.
    resources : Resources
    work_dir : Path
        Training that was interrupted is kept there.
    inputs : GroupInputs
        The store is bids_dir, or the derivative that is called ``store``.

    Returns
    -------
    list of Path
        Table and page of the group, and the model's files.

    Raises
    ------
    MissingInputError
        When there is neither a store nor an encoding model, or features or people are missing.
    UnusableInputError
        When the store or a table of features cannot be used.
    """
    output_dir = Path(output_dir)
    path = _find_store(inputs)
    written: list[Path] = []
    if path is not None:
        _check_processes(settings, resources)
        with limit_threads(resources.n_threads), joined(resources.processes, resources.device) as team:
            data = _read(Store(path), settings, resources, inputs.participants)
            written = _train(data, output_dir, settings, resources, work_dir, team)
    elif not participants:
        raise MissingInputError(
            f"{inputs.bids_dir}: no store to train a population model on (as bids_dir, or by -d store=PATH), and {output_dir} holds no "
            "encoding models to report on"
        )
    return [*written, *write_group_report(output_dir, participants, settings, about)]


def help_group(settings: EncodeSettings, resources: Resources, inputs: GroupInputs) -> None:
    """What the other processes do that torchrun starts beside `run_group`: they read the store and train, and write nothing.

    Raises
    ------
    UsageError
        When there is nothing to share.
    """
    path = _find_store(inputs)
    if path is None:
        return
    _check_processes(settings, resources)
    _LOGGER.setLevel(logging.ERROR)  # the first process says the same
    with limit_threads(resources.n_threads), joined(resources.processes, resources.device) as team:
        data = _read(Store(path), settings, resources, inputs.participants)
        options = _options(settings, resources, team)
        leave_people_out(data.people, options)
        train([person.train for person in data.people], options)


def _check_processes(settings: EncodeSettings, resources: Resources) -> None:
    size, most = resources.processes.size, n_tasks(_options(settings, resources, ALONE))
    if size <= most:
        return
    if settings.engine == "prior":
        raise UsageError(f"--engine prior is no work for {size} processes: start it without torchrun, or train a network (--engine)")
    raise UsageError(f"a step of --engine {settings.engine} has {most} parts, too few for {size} processes: see --training-batch")


def _find_store(inputs: GroupInputs) -> Path | None:
    """The store that was named: a folder with a manifest of a version."""
    if "store" in inputs.derivatives:
        return inputs.derivatives["store"]
    return inputs.bids_dir if versions(inputs.bids_dir) else None


@dataclass(frozen=True, eq=False)
class _Data:
    """What is trained on."""

    store: Store
    tables: Mapping[str, FeatureTable]
    people: Sequence[StorePerson]


def _read(store: Store, settings: EncodeSettings, resources: Resources, participants: Sequence[str]) -> _Data:
    tables = _tables(settings)
    return _Data(store, tables, _people(store, features_of_contents(store, tables), settings, resources, participants))


def _options(settings: EncodeSettings, resources: Resources, team: Team) -> TrainingOptions:
    return TrainingOptions(
        engine=settings.engine,
        seed=resources.random_seed,
        contexts=settings.contexts,
        draws=settings.draws,
        steps=settings.training_steps,
        batch=settings.training_batch,
        preset=settings.preset,
        device=resources.device,
        team=team,
    )


def _train(data: _Data, output_dir: Path, settings: EncodeSettings, resources: Resources, work_dir: Path, team: Team) -> list[Path]:
    store, people, folder = data.store, data.people, output_dir / "model"
    (folder / LOSSES).unlink(missing_ok=True)
    options = replace(_options(settings, resources, team), checkpoints=work_dir / "training", losses=folder / LOSSES)
    scores = leave_people_out(people, options)
    model = train([person.train for person in people], options)
    table = summarise(scores)
    card = ModelCard(
        engine=settings.engine,
        feature_spaces=[{**table.card.as_json(), "name": name, "n_features": table.n_features} for name, table in data.tables.items()],
        people=[person.participant_id for person in people],
        n_units=sum(len(person.units) for person in people),
        n_stimuli=[len(person.contents) for person in people],
        space=str(store.manifest["grid"].get("space", "n/a")),
        stimuli_hash=hash_stimuli(content for person in people for content in person.contents),
        store_version=store.version,
        seed=resources.random_seed,
        contexts=sorted({int(k) for k in scores["n_context"]}),
        context_range=list(context_range(options) or ()),
        scores=[_plain(row) for row in table.to_dict("records")],
        licences=sorted({table.card.licence for table in data.tables.values()} - {"n/a"}),
        software=f"conform-encode {__version__}",
    )
    paths = write_model(folder, model, card)
    write_tsv(scores, folder / "scores.tsv")
    for row in card.scores:
        _LOGGER.info("left-out people, %s stimuli, %s: correlation %.3f", row["n_context"], row["engine"], row["correlation"])
    more = [folder / name for name in ("scores.tsv", LOSSES)]
    return [*paths, *(path for path in more if path.exists())]


def _plain(row: Mapping[Any, Any]) -> dict[str, Any]:
    """Values for JSON, which knows no NaN."""
    plain = {str(key): value.item() if isinstance(value, np.generic) else value for key, value in row.items()}
    return {key: None if isinstance(value, float) and not np.isfinite(value) else value for key, value in plain.items()}


def _tables(settings: EncodeSettings) -> dict[str, FeatureTable]:
    if settings.chosen_backbone is not None:
        raise UsageError(
            "a population model is trained on tables of features, which hold all datasets' stimuli: name them by --features (the page "
            "Features says how to make one with a backbone)"
        )
    return {path.stem: read_features(path) for path in find_feature_files(settings.features)}


def _shared_units(
    store: Store, people: Sequence[str], features: Mapping[str, Any], max_units: int, seed: int
) -> npt.NDArray[np.intp] | None:
    """Units that everybody has, drawn, so that the average map of others can be a baseline; None where too few are shared."""
    shared: npt.NDArray[np.intp] | None = None
    for name in people:
        try:
            own = usable_units(store, name, features)
        except (MissingInputError, UnusableInputError):
            continue
        shared = own if shared is None else np.intersect1d(shared, own)
    if shared is None or len(shared) < min(max_units, MIN_SHARED):
        return None
    return np.sort(np.random.default_rng(seed).permutation(shared)[:max_units])


def _people(
    store: Store, features: Mapping[str, Any], settings: EncodeSettings, resources: Resources, asked: Sequence[str]
) -> list[StorePerson]:
    known = store.participants["participant_id"].astype(str).tolist()
    wanted = [f"sub-{label}" for label in asked] or known
    if absent := [name for name in wanted if name not in known]:
        raise MissingInputError(f"{store.path}: no {absent[0]}; there are {', '.join(known)}")
    people = []
    units = _shared_units(store, wanted, features, settings.max_units, resources.random_seed)
    for name in wanted:
        try:
            people.append(read_person(store, name, features, units=units, max_units=settings.max_units, seed=resources.random_seed))
        except (MissingInputError, UnusableInputError) as error:
            _LOGGER.warning("%s; this person is left out of the population model", error)
    if not people:
        raise UnusableInputError(f"{store.path}: nobody can be trained on; warnings above say why")
    return people
