"""Bases and adapters on a hub: fetched by huggingface_hub into its own cache, whose settings (HF_HOME, HF_TOKEN, HF_HUB_OFFLINE) hold."""

from __future__ import annotations

import re
from pathlib import Path

from lorid_engine.errors import CheckpointError

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
# What Checkpoint, ModelConfig and Tokenizer read: no code, no pickles, no second copy in another layout.
_WEIGHTS = ("model*.safetensors", "model.safetensors.index.json")
_ADAPTER = ("adapter_config.json", "adapter_model.safetensors")
_ABOUT = (
    "config.json",
    "generation_config.json",
    "tokenizer*.json",
    "tokenizer.model*",
    "vocab.*",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
)
_UNWANTED = ("*/*",)


def names_hub_model(text: str) -> bool:
    """Whether a text has the form of a hub's model, organisation/name."""
    return _HUB_ID.fullmatch(text) is not None


def is_hub_id(base: str) -> bool:
    """Whether a base's name is one of a hub, organisation/name, and not a path of this machine."""
    return names_hub_model(base) and not Path(base).exists()


def hub_folder(hub_id: str, revision: str | None = None, *, weights: bool = True) -> Path:
    """The folder of a hub's model in the cache, fetched if it is not there.

    Args:
        hub_id: organisation/name.
        revision: a branch, tag or commit; None = the default branch.
        weights: False = its configuration and tokenizer alone.

    Raises:
        CheckpointError: no such model or revision, no access, or the hub cannot be reached and the cache lacks the model.
    """
    folder = _snapshot(hub_id, revision, (*_WEIGHTS, *_ABOUT) if weights else _ABOUT)
    if weights and not any(folder.glob("model*.safetensors")) and any(folder.glob("config.json")):
        raise CheckpointError(
            f"{hub_id} has no model.safetensors; or the cache has the model without its weights, and the hub was not asked "
            "for them (HF_HUB_OFFLINE)"
        )
    return folder


def hub_adapter(hub_id: str) -> Path:
    """The folder of a hub's adapter in PEFT's format in the cache, fetched if it is not there; raises as hub_folder does."""
    return _snapshot(hub_id, None, _ADAPTER)


def _snapshot(hub_id: str, revision: str | None, wanted: tuple[str, ...]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    name = hub_id + (f" at revision {revision}" if revision else "")
    try:
        return Path(
            snapshot_download(hub_id, revision=revision, allow_patterns=list(wanted), ignore_patterns=list(_UNWANTED))
        )
    except GatedRepoError:
        raise CheckpointError(
            f"the hub gives {name} only to those who accepted its terms; set HF_TOKEN to yours"
        ) from None
    except RevisionNotFoundError:
        raise CheckpointError(f"the hub's model {hub_id} has no revision {revision}") from None
    except RepositoryNotFoundError:
        raise CheckpointError(
            f"there is no folder {hub_id}, and the hub has no such model (or HF_TOKEN is needed)"
        ) from None
    except LocalEntryNotFoundError:
        raise CheckpointError(
            f"{name} is not in the cache, and the hub cannot be reached (or HF_HUB_OFFLINE is set); give a folder instead"
        ) from None
    except Exception as error:  # whatever the network or the disk may say
        raise CheckpointError(f"{name} could not be fetched from the hub: {error}") from error
