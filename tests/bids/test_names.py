from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conform_bids.bids.names import (
    ENTITY_ORDER,
    Name,
    build_name,
    clean_label,
    natural_key,
    parse_name,
    relative_path,
    same_label,
)

ALPHANUMERIC = "0123456789ABCXYZabcxyz"
LABELS = st.text(ALPHANUMERIC, min_size=1, max_size=8)
EXTENSIONS = st.sampled_from([".nii.gz", ".dtseries.nii", ".dscalar.nii", ".func.gii", ".tsv", ".json", ".h5"])


@given(st.dictionaries(st.sampled_from([*ENTITY_ORDER, "recording", "chunk"]), LABELS), LABELS, EXTENSIONS)
def test_built_name_parses_to_what_it_was_built_from(entities: dict[str, str], suffix: str, extension: str) -> None:
    name = build_name(entities, suffix, extension)
    assert parse_name(name) == Name(entities, suffix, extension)
    parsed = parse_name(f"/some/folder/{name}")
    assert build_name(parsed.entities, parsed.suffix, parsed.extension) == name


@given(st.dictionaries(st.sampled_from(ENTITY_ORDER), LABELS, min_size=2), st.randoms())
def test_order_of_the_mapping_does_not_matter(entities: dict[str, str], random) -> None:
    keys = list(entities)
    random.shuffle(keys)
    assert build_name({key: entities[key] for key in keys}, "bold", ".nii") == build_name(entities, "bold", ".nii")
    assert list(parse_name(build_name(entities, "bold", ".nii")).entities) == [key for key in ENTITY_ORDER if key in entities]


@given(st.text(max_size=20))
def test_any_text_parses_or_is_refused(text: str) -> None:
    try:
        parsed = parse_name(f"sub-01_{text}_bold.nii.gz".replace("/", "_"))
    except ValueError:
        return
    assert parsed.suffix
    assert all(label for label in parsed.entities.values())


def test_labels_stay_as_they_are_written() -> None:
    parsed = parse_name("sub-007_ses-1_task-rest_run-01_echo-2_hemi-L_space-fsLR_den-91k_bold.func.gii")
    assert parsed.entities["run"] == "01"
    assert parsed.entities["sub"] == "007"
    assert parsed.extension == ".func.gii"


@pytest.mark.parametrize("name", ["sub-01.html", "dataset_description.json", "sub-_bold.nii", "sub-01_sub-02_bold.nii", "_bold.nii", ".x"])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="not a BIDS file name"):
        parse_name(name)


@pytest.mark.parametrize("label", ["a-b", "a_b", "", "é", "a/b", "..", "a b", "a\n"])
def test_label_that_is_not_alphanumeric_is_refused(label: str) -> None:
    with pytest.raises(ValueError, match="not alphanumeric"):
        build_name({"sub": "01", "task": label}, "bold", ".nii.gz")


def test_relative_path_has_subject_and_session_folders() -> None:
    entities = {"task": "nsd", "ses": "02", "sub": "01"}
    assert relative_path(entities, "bold", ".nii.gz") == "sub-01/ses-02/func/sub-01_ses-02_task-nsd_bold.nii.gz"
    assert relative_path({"sub": "01"}, "stimuli", ".tsv", datatype="") == "sub-01/sub-01_stimuli.tsv"
    assert relative_path({"tpl": "common"}, "statmap", ".nii.gz") == "tpl-common/func/tpl-common_statmap.nii.gz"
    assert relative_path({"desc": "isc"}, "relmat", ".tsv") == "desc-isc_relmat.tsv"


def test_stat_and_space_entities_stand_where_the_validator_wants_them() -> None:
    entities = {"desc": "fithrf", "stat": "effect", "den": "91k", "res": "2", "space": "fsLR", "run": "1", "sub": "a"}
    assert (
        build_name(entities, "statmap", ".dscalar.nii")
        == "sub-a_run-1_space-fsLR_res-2_den-91k_stat-effect_desc-fithrf_statmap.dscalar.nii"
    )


def test_clean_label_keeps_letters_and_digits_only() -> None:
    assert clean_label("face/house_01 (b)") == "facehouse01b"
    with pytest.raises(ValueError, match="no letter or digit"):
        clean_label("--")


def test_numbers_are_the_same_whatever_their_padding() -> None:
    assert same_label("1", "01")
    assert not same_label("1", "10")
    assert not same_label("a1", "a01")
    assert sorted(["10", "2", "a", "1"], key=natural_key) == ["1", "2", "10", "a"]
