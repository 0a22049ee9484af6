"""``conform-store``: create, append, verify, split, features, report, show; the group level of conform-align calls the same functions."""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bids_app.environment import prepare_environment
from conform_bids import __version__
from conform_bids.bids.atomic import remove_left_behind
from conform_bids.errors import ConformError, UsageError
from conform_bids.wording import counted

__all__ = ["main"]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="conform-store",
        description="The aggregated dataset: everybody's trials on one grid, with a train and test split of stimuli that does not leak.",
        epilog="Exit status: 0 done, or sound; 1 verify found a leak or a changed file; 2 wrong usage; 65 and 66 input that cannot be used "
        "or is missing; 70 a bug.",
    )
    parser.add_argument("--version", action="version", version=f"conform-store v{__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    create = commands.add_parser("create", help="Write a store from derivatives of datasets.")
    create.add_argument("store", type=Path, help="Folder of the store: new, or empty.")
    _add_datasets(create, "A derivative of betas, or a raw dataset that holds one.")
    create.add_argument("--source", choices=("glm", "psn", "align"), default="glm", help="Whose betas (default: glm, single trials).")
    _add_choice(create)
    create.add_argument("--zscore", choices=("fit", "session"), default="fit", help="Trials that are z-scored together (default: fit).")
    _add_sameness(create)
    create.add_argument("--parcellation", type=Path, nargs="+", default=[], metavar="FILE", help="Parcels of the noise ceilings.")
    create.add_argument("--name", default="conform store", help="Name of the store.")
    create.add_argument("--license", help="Licence of the whole.")
    create.add_argument("--overwrite", action="store_true", help="Replace the store that is there.")
    append = commands.add_parser("append", help="Add datasets to a store, as a new version; nothing that is there changes.")
    append.add_argument("store", type=Path, help="Folder of the store.")
    _add_datasets(append, "A derivative of betas, or a raw dataset that holds one.")
    _add_choice(append)
    _add_marks(append)
    verify = commands.add_parser("verify", help="Check every file and the split; exit 1 on a leak or a changed file.")
    verify.add_argument("store", type=Path, help="Folder of the store.")
    verify.add_argument("--store-version", metavar="V", help="Version to check (default: the latest).")
    verify.add_argument("--manifest-sha256", metavar="HEX", help="What the SHA-256 of the manifest has to be.")
    split = commands.add_parser("split", help="Write split.tsv from stimuli alone, before any fit.")
    split.add_argument("output_dir", type=Path, help="Where split.tsv goes.")
    _add_datasets(split, "A raw dataset (events and stimuli/), or a derivative with trial tables.")
    split.add_argument("--condition-column", metavar="NAME", help="Column of the events that names the stimulus.")
    split.add_argument(
        "--dataset-config", nargs="+", default=[], metavar="NAME=FILE", help="Descriptions of datasets (YAML), or NAME=nsd and the like."
    )
    _add_sameness(split)
    features = commands.add_parser("features", help="Compute features of the stimuli of datasets, for near-duplicates and models.")
    features.add_argument("output", type=Path, help="Table to write: .h5, .npz or .parquet.")
    _add_datasets(features, "A dataset with stimuli/, or the folder of stimuli itself.")
    features.add_argument("--backbone", default="efficientnet-lite0", metavar="NAME", help="As of conform-encode (default: %(default)s).")
    features.add_argument("--cache", type=Path, metavar="DIR", help="Folder of features that were computed before.")
    features.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N (default: cpu).")
    report = commands.add_parser("report", help="Write the report of a store: one HTML page.")
    report.add_argument("store", type=Path, help="Folder of the store.")
    report.add_argument("--output", type=Path, metavar="FILE", help="The page (default: STORE_report.html, beside the store).")
    report.add_argument("--store-version", metavar="V", help="Version to report on (default: the latest).")
    report.add_argument(
        "--stimuli",
        nargs="+",
        default=[],
        metavar="NAME=DIR",
        help="Folder of a dataset's stimuli, for the images of those that are the same.",
    )
    show = commands.add_parser("show", help="Print what a store holds.")
    show.add_argument("store", type=Path, help="Folder of the store.")
    show.add_argument("--store-version", metavar="V", help="Version to show (default: the latest).")
    return parser


def _add_datasets(parser: argparse.ArgumentParser, help: str) -> None:
    parser.add_argument("datasets", nargs="+", metavar="[NAME=]PATH", help=f"{help} Its name is that of the folder unless one is given.")


def _add_choice(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--desc", help="Model of the betas, where there are several.")
    parser.add_argument("--output-spaces", metavar="SPACE", help="Space of the betas, where there are several.")


def _add_marks(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--split", type=Path, metavar="FILE", help="TSV with stim_id and split (and dataset): further test stimuli.")
    parser.add_argument("--features", type=Path, metavar="FILE", help="Features of the stimuli (TSV, parquet or NPZ).")


def _add_sameness(parser: argparse.ArgumentParser) -> None:
    _add_marks(parser)
    parser.add_argument("--threshold", type=float, metavar="COSINE", help="Cosine of features above which stimuli are near-duplicates.")
    parser.add_argument(
        "--perceptual-distance",
        type=int,
        default=4,
        metavar="BITS",
        help="Bits by which perceptual hashes of near-duplicates differ at most; -1 leaves them out (default: 4).",
    )
    parser.add_argument(
        "--test-fraction",
        type=float,
        default=0.0,
        metavar="F",
        help="Share of the stimuli without any mark that is drawn for test (default: 0).",
    )
    parser.add_argument("--random-seed", type=int, default=0, metavar="N", help="Of that draw (default: 0).")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run conform-store; the exit status is returned."""
    prepare_environment()
    given = _parser().parse_args(arguments)
    try:
        if given.command in ("create", "append"):
            remove_left_behind([given.store])  # of a run that was killed
        return int(_COMMANDS[given.command](given))
    except ConformError as error:
        print(f"conform-store: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except OSError as error:  # a full disk, a folder that cannot be written to
        print(f"conform-store: {error}", file=sys.stderr)
        return 1
    except Exception:  # what is no fault of the input is ours; 1 would say that verify found a leak
        traceback.print_exc()
        return 70


def _named(datasets: Sequence[str]) -> dict[str, Path]:
    """Datasets by name: the one given, or that of the folder (of the raw dataset's, for a derivative in it)."""
    found: dict[str, Path] = {}
    for text in datasets:
        name, equals, rest = text.partition("=")
        path = Path(rest if equals else text).resolve()
        if not equals:
            folder = path.parent.parent if path.parent.name == "derivatives" else path
            name = "".join(character for character in folder.name if character.isalnum() and character.isascii())
        if name in found:
            raise UsageError(f"two datasets called {name}; name them by NAME=PATH")
        found[name] = path
    return found


def _sameness(given: argparse.Namespace) -> Any:
    from conform_bids.store.catalogue import Sameness

    distance = None if given.perceptual_distance == -1 else given.perceptual_distance
    return Sameness(perceptual_distance=distance, threshold=given.threshold)


def _inputs(given: argparse.Namespace, source: str) -> list[Any]:
    from conform_bids.bids.selection import Selection, SpaceRequest
    from conform_bids.store.inputs import find_inputs

    spaces = (SpaceRequest.parse(given.output_spaces),) if given.output_spaces else ()
    selection = Selection(spaces=spaces)
    return [find_inputs(name, path, source=source, desc=given.desc, selection=selection) for name, path in _named(given.datasets).items()]


def _create(given: argparse.Namespace) -> int:
    from conform_bids.store.release import write_release
    from conform_bids.store.settings import StoreSettings

    settings = StoreSettings(
        source=given.source,
        zscore=given.zscore,
        sameness=_sameness(given),
        test_fraction=given.test_fraction,
        seed=given.random_seed,
        name=given.name,
        license=given.license,
    )
    datasets = _inputs(given, given.source)
    release = write_release(
        datasets,
        given.store,
        settings,
        split=given.split,
        features=given.features,
        parcellation=given.parcellation,
        overwrite=given.overwrite,
    )
    return _tell(release, datasets)


def _append(given: argparse.Namespace) -> int:
    from conform_bids.store.manifest import latest_version, read_manifest
    from conform_bids.store.release import append_release

    source = read_manifest(given.store, latest_version(given.store))["settings"]["source"]
    datasets = _inputs(given, source)
    return _tell(append_release(given.store, datasets, split=given.split, features=given.features), datasets)


def _tell(release: Any, datasets: Sequence[Any]) -> int:
    diff = release.diff
    print(f"{release.path}: version {release.version}")
    print(
        f"added: {counted(len(diff['participants_added']), 'person', 'people')}, {counted(diff['n_trials_added'], 'trial')}, "
        f"{counted(diff['n_stimuli_added'], 'stimulus', 'stimuli')}"
    )
    if diff["stimuli_moved"]:
        print(f"{len(diff['stimuli_moved'])} stimuli that were there stand on another side of the split now (diff.json)")
    for note in release.notes:
        print(f"note: {note}")
    try:
        _write_report(release.path, None, {dataset.name: dataset.stimuli_dir for dataset in datasets}, None)
    except (ConformError, OSError) as error:  # the store itself is whole
        print(f"conform-store: no report is written ({error}); conform-store report does it again", file=sys.stderr)
    return 0


def _write_report(store: Path, output: Path | None, stimuli: dict[str, Any], version: str | None) -> None:
    from conform_bids.report.store_report import write_store_report

    root = store.resolve()
    path = output or root.with_name(f"{root.name}_report.html")
    write_store_report(store, path, version=version, stimuli=stimuli, about={"conform-store": __version__})
    print(f"report: {path}")


def _features(given: argparse.Namespace) -> int:
    from conform_bids.errors import MissingInputError
    from conform_bids.stimuli.backbones import compute_features
    from conform_bids.stimuli.backbones_models import load_backbone
    from conform_bids.stimuli.feature_files import write_features
    from conform_bids.stimuli.features import FeatureTable
    from conform_bids.store.split import find_stimuli_folder

    files: dict[str, Path] = {}
    for name, path in _named(given.datasets).items():
        folder = find_stimuli_folder(path) or path
        found = [file for file in sorted(folder.rglob("*")) if file.is_file() and not file.name.startswith(".")]
        if not found:
            raise MissingInputError(f"{folder}: no stimuli")
        files |= {f"{name}:{file.relative_to(folder).as_posix()}": file for file in found}
    table = compute_features(load_backbone(given.backbone, given.device), files, cache=given.cache, faults="set-aside")
    place = sorted({digest: row for row, digest in reversed(list(enumerate(table.sha256)))}.values())  # a content once
    kept = FeatureTable(table.values[place], ["n/a"] * len(place), [table.sha256[row] for row in place], table.card)
    write_features(kept, given.output)
    n_features, n_stimuli = counted(kept.n_features, "feature"), counted(len(kept), "stimulus", "stimuli")
    print(f"{given.output}: {n_features} of {n_stimuli} ({counted(len(files), 'file')})")
    return 0


def _report(given: argparse.Namespace) -> int:
    folders = {}
    for text in given.stimuli:
        name, equals, folder = text.partition("=")
        if not equals or not Path(folder).is_dir():
            raise UsageError(f"--stimuli {text}: NAME=DIR, where DIR is a folder")
        folders[name] = Path(folder)
    _write_report(given.store, given.output, folders, given.store_version)
    return 0


def _verify(given: argparse.Namespace) -> int:
    from conform_bids.store.verify import verify_store

    found = verify_store(given.store, given.store_version, manifest_sha256=given.manifest_sha256)
    for kind, lines in (("CHANGED", found.tampered), ("LEAK", found.leaks), ("FAULT", found.faults), ("note", found.marked)):
        for line in lines:
            print(f"{kind}: {line}")
    verdict = "sound: every file is the manifest's, and nothing leaks" if found.sound else "NOT sound"
    print(f"{given.store}, version {found.version}: {verdict}")
    print(f"SHA-256 of the manifest: {found.manifest_sha256}")
    return 0 if found.sound else 1


def _split(given: argparse.Namespace) -> int:
    from conform_bids.store.split import write_split

    result = write_split(
        _named(given.datasets),
        given.output_dir,
        _sameness(given),
        test_fraction=given.test_fraction,
        seed=given.random_seed,
        split=given.split,
        features=given.features,
        condition_column=given.condition_column,
        configs=_configs(given),
    )
    sizes = result.stimuli.drop_duplicates("content_id")["split"].value_counts()
    n_stimuli = counted(len(result.stimuli), "stimulus", "stimuli")
    print(", ".join(f"{count} {side}" for side, count in sizes.items()) + f" of {n_stimuli} by name")
    for path in result.files:
        print(path)
    return 0


def _configs(given: argparse.Namespace) -> dict[str, Any]:
    from conform_bids.store.dataset_config import read_config, shipped_configs

    there, configs = _named(given.datasets), {}
    for text in given.dataset_config:
        name, equals, file = text.partition("=")
        if not equals or name not in there:
            raise UsageError(f"--dataset-config {text}: NAME=FILE, where NAME is one of {', '.join(there)}")
        configs[name] = read_config(shipped_configs().get(file, Path(file)))
    return configs


def _show(given: argparse.Namespace) -> int:
    from conform_bids.store.reading import Store
    from conform_bids.store.summary import coverage, duplicate_groups, split_sizes

    store = Store(given.store, given.store_version)
    print(f"{given.store}, version {store.version}: {store.n_units} units, space {store.manifest['grid']['space']}")
    print(coverage(store).to_string(index=False, na_rep="n/a"))
    print(split_sizes(store).to_string(index=False))
    groups = duplicate_groups(store)
    print(f"{counted(groups['content_id'].nunique(), 'group')} of stimuli that are the same, or nearly")
    return 0


_COMMANDS = {"create": _create, "append": _append, "verify": _verify, "split": _split, "features": _features} | {
    "report": _report,
    "show": _show,
}


if __name__ == "__main__":
    sys.exit(main())
