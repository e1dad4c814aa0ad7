"""Data sets of a hub, by the library `datasets`, which an installation may lack."""

from __future__ import annotations

from typing import Any

from lorid_engine.errors import DataError


def hub_rows(name: str, split: str) -> list[dict[str, Any]]:
    """The rows of a split.

    Args:
        name: organisation/name, or organisation/name:configuration.

    Raises:
        DataError: no such data set, configuration or split, or the hub cannot be reached; or `datasets` is not installed.
    """
    try:
        import datasets
    except ImportError:
        raise DataError(
            f"{name} is no file, and a hub's data set needs the package datasets: pip install 'lorid-engine[datasets]'"
        ) from None
    repository, _, configuration = name.partition(":")
    try:
        rows = datasets.load_dataset(repository, configuration or None, split=split)
        return [dict(row) for row in rows]
    except Exception as error:  # of the network, the hub, the data set's files: the library has no class of its own
        said = " ".join(f"{error} {error.__cause__ or ''}".split())[:400]
        raise DataError(
            f"there is no file {name}, and the hub's data set could not be had: {said} "
            "(organisation/name:configuration names one of several; HF_TOKEN may be needed)"
        ) from None
