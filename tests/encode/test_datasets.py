"""conform-encode on people of several datasets in one call."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from conform_bids.bids.weights import read_weights

pytestmark = pytest.mark.slow
COMMON = ("--skip-bids-validation", "--nprocs", "1", "--bootstraps", "0")
STEM = "task-images_space-MNI152NLin2009cAsym_res-2"


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory, make_world: Any, world_spec: Any, run_encode: Any) -> Any:
    """Two datasets whose people have the same label, modelled in one call."""
    folder = tmp_path_factory.mktemp("two")
    small = {"people": ("01",), "stimuli": 40, "test": 15}
    first, second = make_world(folder / "first", world_spec(**small)), make_world(folder / "second", world_spec(**small, seed=1))
    features = ("--features", first.features / "truth.h5", "-w", folder / "work")
    named = ("-d", f"one={first.dataset}", f"two={second.dataset}")
    run = run_encode(first.dataset, folder / "out", "participant", "group", *COMMON, *features, *named)
    run.features, run.named, run.folder, run.first, run.second, run.output = features, named, folder, first, second, folder / "out"
    return run


def test_each_person_is_modelled_as_alone(two: Any, run_encode: Any) -> None:
    assert two.status == 0, two.stderr
    assert [path.name for path in sorted(two.output.glob("sub-*")) if path.is_dir()] == ["sub-one01", "sub-two01"]
    alone = run_encode(two.first.dataset, two.folder / "alone", "participant", *COMMON, *two.features)
    assert alone.status == 0, alone.stderr
    files = [
        two.folder / place / "func" / f"{Path(place).name}_{STEM}_desc-ridge_weights.h5" for place in ("out/sub-one01", "alone/sub-01")
    ]
    one, same = (read_weights(path) for path in files)
    np.testing.assert_array_equal(one.weights, same.weights)
    maps = [
        nib.load(two.output / f"sub-{who}" / "func" / f"sub-{who}_{STEM}_stat-correlation_desc-ridge_statmap.nii.gz").get_fdata()
        for who in ("one01", "two01")
    ]
    assert np.nanmedian(maps[0]) > 0.3 and not np.allclose(*maps, equal_nan=True)


def test_tables_sidecars_and_pages_say_who_is_who(two: Any) -> None:
    people = pd.read_csv(two.output / "participants.tsv", sep="\t")
    assert people.to_numpy().tolist() == [["sub-one01", "one", "sub-01"], ["sub-two01", "two", "sub-01"]]
    table = pd.read_csv(two.output / "group_encode.tsv", sep="\t")
    assert table["participant_id"].tolist() == ["sub-one01", "sub-two01"]
    func = two.output / "sub-two01" / "func"
    content = json.loads((func / f"sub-two01_{STEM}_stat-correlation_desc-ridge_statmap.json").read_text())
    assert content["SourceParticipant"] == {"Dataset": "two", "Participant": "sub-01"}
    assert all(source.startswith("bids:two:sub-01/func/") for source in content["Sources"])
    described = json.loads((two.output / "dataset_description.json").read_text())
    assert (two.output / described["DatasetLinks"]["two"]).resolve() == two.second.dataset.resolve()
    assert "sub-01 of two" in (two.output / "sub-two01.html").read_text()
    assert "Participants were of the datasets one, two" in (two.output / "logs" / "CITATION.md").read_text()


def test_one_person_of_one_dataset_is_chosen_by_the_label_in_the_output(two: Any, run_encode: Any, tmp_path: Path) -> None:
    flags = (*two.features, *two.named, "--participant-label", "two01", "--dry-run")
    run = run_encode(two.first.dataset, tmp_path / "out", "participant", *COMMON, *flags)
    assert run.status == 0, run.stderr
    assert "sub-two01" in run.stdout and "sub-one01" not in run.stdout


def test_a_store_is_no_dataset_of_people(two: Any, run_encode: Any, tmp_path: Path) -> None:
    run = run_encode(two.first.dataset, tmp_path / "out", "group", *COMMON, *two.features, "-d", f"store={tmp_path / 'absent'}")
    assert run.status == 66 and "absent" in run.stderr


def test_movies_of_a_named_dataset(make_movies: Any, run_encode: Any, tmp_path: Path) -> None:
    world = make_movies(tmp_path)
    flags = ("--design", "movie", "--features", world.features / "truth.h5", "--confounds", "trans_*", "-d", f"film={world.dataset}")
    run = run_encode(world.dataset, tmp_path / "out", "participant", "-w", tmp_path / "work", *COMMON, *flags)
    assert run.status == 0, run.stderr
    (path,) = (tmp_path / "out" / "sub-film01" / "func").glob("*_stat-correlation_desc-ridge_statmap.json")
    content = json.loads(path.read_text())
    assert content["SourceParticipant"] == {"Dataset": "film", "Participant": "sub-01"}
    assert path.name.startswith("sub-film01_task-movie_") and all(source.startswith("bids:film") for source in content["Sources"])
