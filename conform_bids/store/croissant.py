"""Croissant metadata (MLCommons, version 1.0) of a version of a store: its files with their hashes, its tables with their columns.

HDF5 can be no source of records in Croissant, so the betas are file objects; the table of trials says which row is which.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from conform_bids.store.tables import TABLES

__all__ = ["croissant_metadata"]

_CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
_FORMATS = {".h5": "application/x-hdf5", ".parquet": "application/x-parquet", ".npz": "application/zip"}


def croissant_metadata(
    name: str, version: str, license: str | None, files: Mapping[str, Mapping[str, Any]], tables: Mapping[str, pd.DataFrame]
) -> dict[str, Any]:
    """The JSON-LD object.

    Parameters
    ----------
    files : mapping
        Name, relative to the store, to ``sha256`` and ``bytes``; those of betas and of this version's tables are listed.
    tables : mapping
        This version's tables by name.
    """
    folder = f"versions/{version}"
    listed = [path for path in sorted(files) if path.endswith(".h5") or (path.startswith(folder) and path.endswith(".parquet"))]
    objects = [_file(path, files[path], folder) for path in listed]
    records = [_records(table, frame, f"{folder}/{table}.parquet") for table, frame in tables.items()]
    content: dict[str, Any] = {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "name": name,
        "description": "Single-trial fMRI responses of many people on one grid, z-scored, with a split of stimuli that does not leak.",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "version": version,
        "distribution": objects,
        "recordSet": records,
    }
    return content | ({"license": license} if license else {})


def _file(path: str, record: Mapping[str, Any], folder: str) -> dict[str, Any]:
    suffix = path[path.rindex(".") :]
    url = path.removeprefix(f"{folder}/") if path.startswith(f"{folder}/") else f"../../{path}"
    return {
        "@type": "cr:FileObject",
        "@id": path,
        "name": path,
        "contentUrl": url,
        "contentSize": f"{record['bytes']} B",
        "encodingFormat": _FORMATS[suffix],
        "sha256": record["sha256"],
    }


def _records(table: str, frame: pd.DataFrame, path: str) -> dict[str, Any]:
    fields = [
        {
            "@type": "cr:Field",
            "@id": f"{table}/{column}",
            "name": f"{table}/{column}",
            "description": text,
            "dataType": _type(frame[column]),
            "source": {"fileObject": {"@id": path}, "extract": {"column": column}},
        }
        for column, text in TABLES[table].items()
    ]
    return {"@type": "cr:RecordSet", "@id": table, "name": table, "field": fields}


def _type(column: pd.Series) -> str:
    kinds = {"b": "sc:Boolean", "i": "sc:Integer", "u": "sc:Integer", "f": "sc:Float"}
    return kinds.get(column.dtype.kind, "sc:Text")
