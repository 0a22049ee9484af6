"""Which of ``-d NAME=PATH`` are datasets of people."""

from __future__ import annotations

from pathlib import Path

import pytest

from conform_bids.bids.collection import named_datasets
from conform_bids.errors import UsageError


def test_names_of_tools_are_no_datasets() -> None:
    paths = {name: Path("/data", name) for name in ("nsd", "bold5000", "freesurfer", "fmriprep", "conform-glm", "nsd.raw")}
    with pytest.raises(UsageError, match="fmriprep: of which of nsd, bold5000"):
        named_datasets(paths)
    del paths["fmriprep"]
    nsd, bold5000 = named_datasets(paths)
    assert (nsd.name, bold5000.name) == ("nsd", "bold5000")
    assert set(nsd.derivatives) == {"raw", "freesurfer", "conform-glm"}
    assert set(bold5000.derivatives) == {"freesurfer", "conform-glm"}


def test_a_derivative_of_a_dataset_that_is_not_named_is_refused() -> None:
    with pytest.raises(UsageError, match="no dataset is called nsd"):
        named_datasets({"things": Path("/things"), "nsd.raw": Path("/raw")})
