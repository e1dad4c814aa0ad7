"""GGUF files as Hugging Face folders: converted once, by transformers' own loader, into the cache."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import tempfile
from pathlib import Path

from lorid_engine.errors import CheckpointError
from lorid_engine.model.cache import Report, file_sha256, is_cached, locked

_DONE = "converted"  # written last: a folder without it was cut short


def hf_folder_from_gguf(gguf_file: Path, cache_dir: Path, report: Report | None = None) -> Path:
    """The folder in Hugging Face's format (bfloat16) of a GGUF file, converted if it is not in the cache yet.

    Args:
        gguf_file: a Llama-family model.
        cache_dir: where converted bases are kept, by the file's SHA-256.
        report: told (what, done, total) as the work goes on.

    Raises:
        CheckpointError: no such file, no GGUF file, a model that transformers cannot convert, or a cache without room.
    """
    name = file_sha256(gguf_file)[:32]
    target = cache_dir / "bases" / name
    if is_cached(target / _DONE):
        return target
    with locked(cache_dir / "bases" / f"{name}.lock", report):
        if is_cached(target / _DONE):  # another process was faster
            return target
        for left in [target, *target.parent.glob(f"{name}.scratch.*")]:  # of processes that were killed
            shutil.rmtree(left, ignore_errors=True)
        if report:
            report(f"converting {gguf_file.name}", 0, 1)
        try:
            with tempfile.TemporaryDirectory(prefix=f"{name}.scratch.", dir=target.parent) as scratch:
                made = Path(scratch, "base")
                made.mkdir()  # unlike its parent, as readable to others as the user's other files
                _convert(gguf_file, made)
                (made / _DONE).write_text(f"from {gguf_file.name}\n", encoding="utf-8")
                os.rename(made, target)
        except OSError as error:
            raise CheckpointError(f"{gguf_file} could not be converted into {target}: {error}") from error
        if report:
            report(f"converting {gguf_file.name}", 1, 1)
    return target


def _convert(gguf_file: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, logging

    options: dict[str, object] = {"gguf_file": gguf_file.name, "dtype": torch.bfloat16}
    with contextlib.suppress(ImportError):  # transformers 5 dequantizes only when told to
        from transformers import GgufConfig

        options["quantization_config"] = GgufConfig(gguf_file=gguf_file.name, dequantize=True)
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # its progress bars; ours is told through report
            model = AutoModelForCausalLM.from_pretrained(gguf_file.parent, **options)
            model.save_pretrained(folder)
            AutoTokenizer.from_pretrained(gguf_file.parent, gguf_file=gguf_file.name).save_pretrained(folder)
    except (OSError, MemoryError):
        raise
    except Exception as error:  # the loader raises many kinds for a damaged or unknown file
        raise CheckpointError(f"{gguf_file} cannot be converted from GGUF: {error}") from error
    finally:
        logging.set_verbosity(verbosity)
