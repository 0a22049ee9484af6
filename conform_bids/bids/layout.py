"""The pybids index of one dataset, never larger than what is asked of it.

Without a database, each participant is indexed by itself when it is first asked for: pybids takes 17 s and 435 MB for 28,000
files, and under a second for one participant of them, as it does not enter ignored folders. With a database, the whole dataset
is indexed once, and array jobs share it. pybids serves as the index only: it knows neither ``stat`` nor padded runs, and one
odd sidecar ends its metadata indexing, so entities come from `names` and metadata from `sidecars`.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import shutil
import sqlite3
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from conform_bids.bids.atomic import TEMPORARY_PREFIX, lock_file
from conform_bids.errors import ConformError, UnusableInputError

__all__ = ["DatasetIndex"]

DATABASE_NAME = "layout_index.sqlite"
BUILD_TIMEOUT_S = 3600.0
_REPORTS = re.compile(r"^/sub-[^/]+(/ses-[^/]+)?/(figures|log)(/|$)")


class DatasetIndex:
    """Files of the participants of one dataset.

    Parameters
    ----------
    root : Path
        Absolute root of the dataset.
    name : str
        Key of the dataset, for messages and the database's folder.
    is_derivative : bool
        Whether pybids should read it as a derivative.
    other_roots : sequence of Path
        Other datasets, which are not entered where they lie within this one.
    database_dir : Path, optional
        Folder below which the database of this dataset is kept.
    warn
        Takes what the user should know.
    """

    def __init__(
        self,
        root: Path,
        name: str,
        *,
        is_derivative: bool,
        other_roots: Sequence[Path] = (),
        database_dir: Path | None = None,
        warn: Callable[[str], None],
    ) -> None:
        self.root = root
        self.name = name
        self.is_derivative = is_derivative
        self._warn = warn
        nested = [other.relative_to(root).as_posix() for other in other_roots if root in other.parents]
        self._ignore = [_REPORTS, *(re.compile(rf"^/{re.escape(path)}(/|$)") for path in nested)]
        self._folder: Path | None = None
        if database_dir is not None:
            digest = hashlib.sha256(os.fsencode(root)).hexdigest()[:8]
            self._folder = database_dir / f"{name}-{digest}"
        self._database: Any = None

    def participants(self) -> set[str]:
        """Labels of the folders ``sub-*``."""
        try:
            with os.scandir(self.root) as entries:
                names = [entry.name for entry in entries if entry.name.startswith("sub-") and entry.is_dir()]
        except OSError as error:
            raise UnusableInputError(f"{self.root}: cannot be listed ({error.strerror})") from error
        return {name.removeprefix("sub-") for name in names}

    def paths(self, participant: str) -> list[Path]:
        """Every file of a participant, sorted; reports and logs left out.

        Raises
        ------
        UnusableInputError
            When pybids cannot index the dataset.
        """
        folder = self.root / f"sub-{participant}"
        if not folder.is_dir():
            return []
        found = self._from_database(folder) if self._folder is not None else None
        if found is None:
            label = re.escape(participant)
            layout = self._index([*self._ignore, re.compile(rf"^/(?!sub-{label}(/|$))")])
            with contextlib.closing(_Files(layout)) as files:
                found = files.below(folder)
        return [Path(path) for path in sorted(found)]

    def _index(self, ignore: list[re.Pattern[str]], database_path: Path | None = None) -> Any:
        with _quiet_pybids(self.root) as bids:
            indexer = bids.BIDSLayoutIndexer(validate=False, index_metadata=False, ignore=ignore)
            return bids.BIDSLayout(
                self.root, validate=False, is_derivative=self.is_derivative, indexer=indexer, database_path=database_path
            )

    def _from_database(self, folder: Path) -> list[str] | None:
        """Files of a participant from the database, which is made when needed; None when it is older than the participant."""
        if self._database is None:
            self._database = self._open_database()
        found = self._database.below(folder)
        changed = max(os.stat(parent).st_mtime_ns for parent, _, _ in os.walk(folder, followlinks=True))
        if found and changed <= self._database.time_ns:
            return found
        self._warn(
            f"{self._database_file}: older than {folder}, which was indexed anew for this run; remove the file to have it made again"
        )
        return None

    @property
    def _database_file(self) -> Path:
        assert self._folder is not None
        return self._folder / DATABASE_NAME

    def _open_database(self) -> _Files:
        assert self._folder is not None
        if not _is_index_of(self._database_file, self.root):
            with lock_file(self._folder, timeout_s=BUILD_TIMEOUT_S):
                if not _is_index_of(self._database_file, self.root):  # another job may just have made it
                    self._build_database(self._folder)
        with _quiet_pybids(self.root) as bids:
            layout = bids.BIDSLayout(self.root, validate=False, is_derivative=self.is_derivative, database_path=self._folder)
        return _Files(layout, os.stat(self._database_file).st_mtime_ns)

    def _build_database(self, folder: Path) -> None:
        if self._database_file.exists():
            self._warn(f"{self._database_file}: broken, or the index of another dataset; made again")
        for left_behind in folder.glob(f"{TEMPORARY_PREFIX}*"):  # by a job that was killed: we hold the lock
            shutil.rmtree(left_behind, ignore_errors=True)
        temporary = folder / f"{TEMPORARY_PREFIX}{secrets.token_hex(6)}"
        try:
            layout = self._index([*self._ignore, re.compile(r"^/(?!sub-)")], temporary)
            _Files(layout).close()
            os.replace(temporary / DATABASE_NAME, self._database_file)  # who reads the old one keeps it open
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


class _Files:
    """The table of files of a pybids layout."""

    def __init__(self, layout: Any, time_ns: int = 0) -> None:
        self._layout = layout
        self.time_ns = time_ns

    def below(self, folder: Path) -> list[str]:
        from bids.layout.models import BIDSFile  # paths only: pybids' own query loads every tag of every file

        query = self._layout.session.query(BIDSFile.path).filter(BIDSFile.path.startswith(f"{folder}{os.sep}", autoescape=True))
        return [path for (path,) in query]

    def close(self) -> None:
        self._layout.session.close()
        self._layout.connection_manager.engine.dispose()


def _is_index_of(database: Path, root: Path) -> bool:
    """Whether a file is a complete pybids index of this dataset; anything else, a torn file included, is not."""
    if not database.is_file():
        return False
    try:
        with contextlib.closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as connection:
            roots = [row[0] for row in connection.execute("SELECT root FROM layout_info")]
            connection.execute("SELECT path FROM files LIMIT 1").fetchall()
            sound = connection.execute("PRAGMA quick_check(1)").fetchone()[0] == "ok"
    except sqlite3.Error:
        return False
    return sound and roots == [str(root)]


@contextlib.contextmanager
def _quiet_pybids(root: Path) -> Iterator[Any]:
    """Import pybids late, without its warnings on slips that we tolerate, and name the dataset in whatever it raises."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import bids.layout

            yield bids.layout
    except ConformError:
        raise
    except Exception as error:  # pybids raises KeyError, TypeError, ... on datasets that it does not expect
        raise UnusableInputError(f"{root}: pybids cannot index it ({type(error).__name__}: {error})") from error
