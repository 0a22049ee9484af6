"""The BIDS schema with the names that conform adds, so that a validator can judge every file that is written.

``python extended_schema.py OUT.json``, then ``bids-validator-deno DATASET -s file:///absolute/path/OUT.json``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

ARRAYS = (".nii.gz", ".dscalar.nii", ".func.gii")
SUFFIXES = {
    "statmap": ARRAYS,
    "trials": (".tsv",),
    "design": (".tsv",),
    "timeseries": (".tsv",),
    "metrics": (".tsv",),
    "components": ARRAYS,
    "decomposition": (".h5",),
    "xfm": (".h5",),
    "weights": (".h5",),
    "eigenspectrum": (".tsv",),
    "contexts": (".tsv",),
}
NEW_ENTITIES = {"from": "space", "to": "from", "mode": "to", "stat": "density"}
"""Each with the entity that it follows in a name."""


def extended_schema() -> dict[str, Any]:
    """The schema that bidsschematools carries, with suffixes, entities and a rule for each kind of file of ours."""
    import bidsschematools

    schema: dict[str, Any] = json.loads((Path(bidsschematools.__file__).parent / "data" / "schema.json").read_text(encoding="utf-8"))
    order = schema["rules"]["entities"]
    for name, predecessor in NEW_ENTITIES.items():
        label = {"name": name, "display_name": name, "description": "Draft of derivatives.", "type": "string", "format": "label"}
        schema["objects"]["entities"][name] = label
        order.insert(order.index(predecessor) + 1, name)
    rules = {}
    for suffix, extensions in SUFFIXES.items():
        schema["objects"]["suffixes"][suffix] = {"value": suffix, "display_name": suffix, "description": "Draft of derivatives."}
        rules[suffix] = {
            "selectors": ['dataset.dataset_description.DatasetType == "derivative"'],
            "datatypes": ["func"],
            "suffixes": [suffix],
            "extensions": [*extensions, ".json"],
            "entities": dict.fromkeys(order, "optional"),
        }
    schema["rules"]["files"]["deriv"]["conform"] = rules
    return schema


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(json.dumps(extended_schema()), encoding="utf-8")
