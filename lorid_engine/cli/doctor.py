"""`lorid doctor`: what this machine and installation can do, and why not where they cannot."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import sys
from typing import Any

from lorid_engine import env
from lorid_engine.errors import ConfigError
from lorid_engine.model.cache import bytes_under

_PACKAGES = ("torch", "transformers", "tokenizers", "safetensors", "gguf", "numpy", "triton", "rich")


def run(options: argparse.Namespace) -> int:
    """Prints the report; returns the exit status."""
    report = collect()
    if options.json:
        print(json.dumps(report))
        return 0
    for section, values in report.items():
        print(section)
        for name, value in values.items():
            print(f"  {name}: {value}")
    return 0


def collect() -> dict[str, dict[str, Any]]:
    """The report's sections."""
    return {
        "machine": _machine(),
        "instruction sets": _isas(),
        "backends": _backends(),
        "versions": _versions(),
        "cache": _cache(),
        "adapter forms": _adapter_forms(),
        "packs": _packs(),
    }


def machine_facts(threads: int | None = None) -> dict[str, Any]:
    """Machine, instruction set and versions, for what is measured here; threads: where a command sets them."""
    report = collect()
    in_use = next((isa for isa, state in report["instruction sets"].items() if "in use" in state), "none")
    about: dict[str, Any] = {
        key: report["machine"][key] for key in ("processor", "threads", "memory", "gpu") if key in report["machine"]
    }
    if threads is not None:
        about["threads"] = threads
    versions = {name: report["versions"][name] for name in ("python", "lorid-engine", "torch", "transformers", "numpy")}
    return {**about, "instruction set": in_use, **versions}


def _machine() -> dict[str, Any]:
    machine: dict[str, Any] = {"system": platform.platform(), "processor": _processor()}
    try:
        machine["threads"] = env.threads() or _cores()
    except ValueError as error:
        machine["threads"] = f"unusable: {error}"
    machine["cores that this process may use"] = _cores()
    if memory := _memory():
        machine["memory"] = memory
    if gpu := _gpu():
        machine["gpu"] = gpu
    return machine


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _proc(path: str, key: str) -> str | None:
    """A value of one of Linux's "key: value" files."""
    try:
        with open(path, encoding="utf-8") as lines:
            return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(key)), None)
    except OSError:
        return None


def _processor() -> str:
    return _proc("/proc/cpuinfo", "model name") or platform.processor() or platform.machine()


def _memory() -> str | None:
    total, free = _proc("/proc/meminfo", "MemTotal"), _proc("/proc/meminfo", "MemAvailable")
    if total is None or free is None:
        return None
    gib = [int(text.split()[0]) / 2**20 for text in (total, free)]
    return f"{gib[0]:.1f} GiB, {gib[1]:.1f} GiB of it free"


def _gpu() -> str | None:
    """The GPU that --device cuda takes."""
    import torch

    try:
        return torch.cuda.get_device_name() if torch.cuda.is_available() else None
    except RuntimeError as error:  # a driver that does not fit
        return f"unusable: {error}"


def _isas() -> dict[str, str]:
    try:
        from lorid_engine import _C
    except ImportError as error:
        return {"C++ extension": f"not built: {error}"}
    supported = _C.supported_isas()
    states = {isa: "ready" if isa in supported else "not on this processor" for isa in _C.compiled_isas()}
    for isa in ("avx512bf16", "avx512", "avx2", "neon", "scalar"):
        states.setdefault(isa, "not compiled in: another architecture, or the compiler did not know it")
    forced = env.isa()
    if forced and forced not in supported:
        states["LORID_ISA"] = f"unusable: {forced!r} is none that is ready here"
    else:
        states[forced or _C.active_isa()] += ", in use" + (" (LORID_ISA)" if forced else "")
    return states


def _backends() -> dict[str, str]:
    from lorid_engine import ops
    from lorid_engine.errors import LoridError

    try:
        backends = ops.report()
        if (asked := ops.dispatch.asked_backend()) is not None:
            backends[asked] += ", asked for (LORID_BACKEND)"
    except LoridError as error:
        backends = {"cpu": f"unusable: {error}"}
    return backends


def _versions() -> dict[str, str]:
    versions = {"python": sys.version.split()[0]}
    for package in ("lorid-engine", *_PACKAGES):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return versions


def _cache() -> dict[str, str]:
    try:
        folder = env.cache_dir()
    except ConfigError as error:
        return {"folder": f"unusable: {error}"}
    existing = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
    usable = existing.is_dir() and os.access(existing, os.W_OK)
    writable = "writable" if usable else "NOT writable: set LORID_CACHE to another folder"
    return {"folder": str(folder), "state": f"{writable}, {bytes_under(folder) / 1e6:.0f} MB in it"}


def _adapter_forms() -> dict[str, str]:
    """From which rank on an engine merges an adapter into a copy of the weight, for the shapes that ship."""
    from lorid_engine.engine.options import EngineOptions
    from lorid_engine.model.adapter_form import least_merged_rank
    from lorid_engine.model.adapters import module_shapes
    from lorid_engine.model.random_model import shape_config

    active = EngineOptions.active_adapters
    forms = {"rule": f"merged where {active} copies of a weight are read faster than it and {active} pairs of A and B"}
    for name in ("smollm2-135m", "llama-2-7b"):
        shapes = module_shapes(shape_config(name)).items()
        ranks = ((module.split(".")[1], least_merged_rank(*shape, active)) for module, shape in shapes)
        forms[name] = "merged from rank " + ", ".join(f"{rank} ({module})" for module, rank in ranks)
    return forms


def _packs() -> dict[str, str]:
    from lorid_engine.solver.packs import installed_packs

    return {name: str(folder) for name, folder in installed_packs().items()}
