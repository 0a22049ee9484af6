"""One space where one is needed: which are proposed, and that the option proposed chooses one alone."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from conform_bids.bids.selection import SpaceRequest, check_one_space
from conform_bids.errors import UsageError


def found(text: str, kind: str) -> Any:
    space, *modifiers = text.split(":")
    entities = {} if space == "func" else {"space": space}
    return SimpleNamespace(entities=entities | dict(each.split("-") for each in modifiers), kind=kind)


T1W, FSLR, FSAVERAGE = found("T1w", "nifti"), found("fsLR:den-5k", "cifti"), found("fsaverage5", "gifti")


@pytest.mark.parametrize(
    ("spaces", "refused", "listing", "how"),
    [
        (
            [T1W, FSLR, FSAVERAGE],
            (),
            "T1w (nifti); fsLR:den-5k (cifti); fsaverage5 (gifti)",
            "choose one, as by --output-spaces fsaverage5",
        ),
        ([T1W, FSLR], ("T1w",), "fsLR:den-5k (cifti)", "choose it by --output-spaces fsLR:den-5k"),
        ([found("func", "nifti"), FSAVERAGE], ("func",), "fsaverage5 (gifti)", "choose it by --output-spaces fsaverage5"),
        ([found("func", "nifti"), T1W], ("func", "T1w"), "func (nifti); T1w (nifti)", "choose one, as by --output-spaces T1w"),
        (
            [FSLR, found("fsLR:den-5k", "gifti")],
            (),
            "fsLR:den-5k (cifti); fsLR:den-5k (gifti)",
            "choose one, as by --output-spaces fsLR:den-5k --file-format gifti",
        ),
        ([found("MNI:res-2", "nifti"), found("MNI", "nifti")], (), "MNI:res-2 (nifti); MNI (nifti)", "as by --output-spaces MNI:res-2"),
    ],
)
def test_several_spaces_are_refused_with_an_option_to_copy(spaces: list[Any], refused: tuple[str, ...], listing: str, how: str) -> None:
    with pytest.raises(UsageError) as caught:
        check_one_space(spaces, "responses are", refused)
    message = str(caught.value)
    assert message.startswith(f"responses are in several spaces, and one is needed: {listing}; ") and message.endswith(how)
    words = message.partition("--output-spaces ")[2].split()
    request = SpaceRequest.parse(words[0])
    assert len([each for each in spaces if request.matches(each.entities) and each.kind in (words[2:] or [each.kind])]) == 1


def test_one_space_in_many_files_is_taken() -> None:
    check_one_space([], "responses are")
    check_one_space([T1W, found("T1w", "nifti")], "responses are", ("T1w",))
