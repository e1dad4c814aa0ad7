"""What the kernels become on each GPU: registers, spills, shared memory and matrix instructions, without a GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import offline
import pytest
import torch
import triton
import triton.language as tl
from offline import LLAMA, MAX_SHARED, REGISTERS, Binary, Case, Model, archs_of, complaints, inspect, variants

Results = dict[str, dict[str, list[Binary] | str]]
HOW = "python tests/kernels/offline.py --record"


@pytest.fixture(scope="session")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Every variant compiled for every architecture, in a process that has no Triton settings."""
    path = tmp_path_factory.mktemp("offline") / "results.json"
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("TRITON_", "PTXAS"))}
    command = [sys.executable, offline.__file__, "--json", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(path.read_text(encoding="utf-8"))
    return {
        name: {sm: each if isinstance(each, str) else [binary_of(one) for one in each] for sm, each in by_arch.items()}
        for name, by_arch in found.items()
    }


def binary_of(fields: dict) -> Binary:
    """A Binary that went through JSON."""
    return Binary(**{**fields, "instructions": tuple(fields["instructions"])})


def binaries_of(results: Results, name: str, arch: int) -> list[Binary]:
    """A variant's binaries; fails where its launcher failed or launched nothing."""
    found = results[name][str(arch)]
    assert not isinstance(found, str), found
    assert found, f"the launcher of {name} launched nothing"
    return found


@pytest.mark.parametrize(("name", "arch"), [(name, arch) for name in variants() for arch in archs_of(name)])
def test_no_spills_and_shared_memory_that_fits(results: Results, name: str, arch: int) -> None:
    matrix = variants()[name][0].matrix
    binaries = binaries_of(results, name, arch)
    assert set(matrix) <= {binary.kernel for binary in binaries}
    wrong = [each for binary in binaries for each in complaints(binary, arch, matrix=binary.kernel in matrix)]
    assert not wrong, "\n".join(wrong)


def bounds() -> dict[str, dict[str, int]] | None:
    """The most registers that each variant's kernels may use, under this version of Triton."""
    return json.loads(REGISTERS.read_text(encoding="utf-8")).get(triton.__version__)


@pytest.mark.skipif(bounds() is None, reason=f"no registers are recorded for Triton {triton.__version__}")
@pytest.mark.parametrize("name", variants())
def test_registers_stay_within_their_bounds(results: Results, name: str) -> None:
    for arch in archs_of(name):
        for binary in binaries_of(results, name, arch):
            assert_registers(binary, bounds().get(f"{name}/{binary.kernel}", {}).get(str(arch)), arch)


def assert_registers(binary: Binary, bound: int | None, arch: int) -> None:
    assert bound is not None, f"no bound for {binary.kernel} on sm_{arch}: {HOW}"
    assert binary.registers <= bound, (
        f"{binary.kernel} takes {binary.registers} registers on sm_{arch}, {bound} before; if that is worth it, "
        f"raise the bound in {REGISTERS.name} by hand"
    )


@pytest.mark.skipif(bounds() is None, reason=f"no registers are recorded for Triton {triton.__version__}")
def test_no_bound_outlives_its_kernel(results: Results) -> None:
    there = {
        f"{name}/{each.kernel}"
        for name in results
        for arch in archs_of(name)
        for each in binaries_of(results, name, arch)
    }
    assert not bounds().keys() - there, f"kernels that are gone: {HOW}"


@pytest.mark.parametrize("rows", [8, 32, 64, 128, 200])
@pytest.mark.usefixtures("empty_cache")
def test_float32_fits_into_shared_memory(rows: int) -> None:
    """float32 is for tests, but on every GPU."""
    with offline.offline(86) as compiled:
        offline.linears(LLAMA, lambda *shape, dtype=torch.float32: torch.empty(*shape, dtype=dtype, device="meta"), rows=rows, max_rank=64)  # fmt: skip
    assert {name for name, _ in compiled} >= {"_lora_linear_kernel", "_lora_shrink_kernel"}
    assert max(binary.metadata.shared for _, binary in compiled) <= MAX_SHARED


@pytest.mark.parametrize(("dtype", "head_dim"), [(torch.float32, 64), (torch.float32, 256), (torch.bfloat16, 512)])
@pytest.mark.usefixtures("empty_cache")
def test_training_attention_fits_with_every_head_that_it_takes(dtype: torch.dtype, head_dim: int) -> None:
    model = Model("wide", E=head_dim, H=1, G=1, D=head_dim, F=1, V=1)
    with offline.offline(86) as compiled:
        offline.packed_attentions(model, lambda *shape, dtype=dtype: torch.empty(*shape, dtype=dtype, device="meta"), window=0)  # fmt: skip
    assert {name for name, _ in compiled} >= set(offline.PACKED)
    assert max(binary.metadata.shared for _, binary in compiled) <= MAX_SHARED


@triton.jit
def _greedy_kernel(x_ptr, y_ptr, BLOCK: tl.constexpr):
    """Holds a row of BLOCK floats in one warp."""
    e = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + e)
    tl.store(y_ptr + e, x / tl.sqrt(tl.sum(x * x, axis=0)))


@triton.jit
def _product_kernel(a_ptr, b_ptr, y_ptr, features, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr):
    m, n, k = tl.arange(0, M)[:, None], tl.arange(0, N)[None, :], tl.arange(0, K)
    total = tl.zeros((M, N), tl.float32)
    for start in range(0, features, K):
        a = tl.load(a_ptr + m * features + start + k[None, :])
        total = tl.dot(a, tl.load(b_ptr + n * features + start + k[:, None]), total)
    tl.store(y_ptr + m * N + n, total)


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))


def planted(kernel, arch: int, kinds: list[torch.dtype], *rest: int, **options: int) -> Binary:
    """The binary of a planted kernel, launched as a user would."""
    with offline.offline(arch) as compiled:
        kernel[(1,)](*(torch.empty(1 << 20, dtype=kind, device="meta") for kind in kinds), *rest, **options)
    assert [name for name, _ in compiled] == [kernel.__name__]
    return inspect(*compiled[0])


PRODUCT = [torch.bfloat16, torch.bfloat16, torch.float32]


@pytest.mark.parametrize("arch", [80, 90, 120])
@pytest.mark.usefixtures("empty_cache")
def test_a_planted_spill_is_found(arch: int) -> None:
    thrifty = planted(_greedy_kernel, arch, [torch.float32] * 2, BLOCK=1024, num_warps=1)
    assert not complaints(thrifty, arch) and thrifty.accesses == "16x8 > 16x8"
    [found] = complaints(planted(_greedy_kernel, arch, [torch.float32] * 2, BLOCK=8192, num_warps=1), arch)
    assert found.startswith("_greedy_kernel spills: ")


@pytest.mark.parametrize("arch", [80, 90])
@pytest.mark.usefixtures("empty_cache")
def test_too_much_planted_shared_memory_is_found(arch: int) -> None:
    shape = {"M": 128, "N": 128, "K": 64, "num_warps": 8}
    modest = planted(_product_kernel, arch, PRODUCT, 4096, **shape, num_stages=3)
    assert not complaints(modest, arch) and 0 < modest.shared <= MAX_SHARED
    [found] = complaints(planted(_product_kernel, arch, PRODUCT, 4096, **shape, num_stages=5), arch)
    assert f"bytes of shared memory; at most {MAX_SHARED} are there" in found


@pytest.mark.usefixtures("empty_cache")
def test_a_planted_lack_of_matrix_instructions_is_found() -> None:
    shape = {"N": 64, "K": 64, "num_warps": 4, "num_stages": 2}
    assert not complaints(planted(_product_kernel, 90, PRODUCT, 4096, M=64, **shape), 90, matrix=True)
    [found] = complaints(planted(_product_kernel, 90, PRODUCT, 4096, M=16, **shape), 90, matrix=True)
    assert "does not multiply with wgmma; it has mma.sync" in found


def test_a_bound_is_missing_or_passed() -> None:
    binary = Binary("_some_kernel", 41, 0, 0, "", ())
    assert_registers(binary, 41, 80)
    with pytest.raises(AssertionError, match="takes 41 registers on sm_80, 40 before"):
        assert_registers(binary, 40, 80)
    with pytest.raises(AssertionError, match=r"no bound for _some_kernel on sm_80: python .* --record"):
        assert_registers(binary, None, 80)


def test_a_launcher_that_fails_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def launch(model, new) -> None:
        raise ValueError(f"no launch for {model.name} {new(1).dtype}")

    monkeypatch.setattr(offline, "CASES", (Case("broken", launch), Case("idle", lambda model, new: None)))
    failed = offline.compile_variant("broken llama2-7b bfloat16", 80)
    assert "ValueError: no launch for llama2-7b torch.bfloat16" in failed
    idle = {"idle": {"80": offline.compile_variant("idle llama2-7b bfloat16", 80)}}
    with pytest.raises(AssertionError, match="the launcher of idle launched nothing"):
        binaries_of(idle, "idle", 80)


def test_offline_leaves_triton_and_torch_as_they_were() -> None:
    def settings() -> list:
        functions = triton.runtime.JITFunction.run, torch.cuda.get_device_capability, torch.cuda.get_device_properties
        return [triton.runtime.driver._active, *functions]

    before = settings()
    with pytest.raises(KeyError), offline.offline(90):
        assert triton.runtime.driver.active.get_current_target().arch == 90
        assert torch.cuda.get_device_capability() == (9, 0)
        assert all(now is not then for now, then in zip(settings(), before, strict=True))
        raise KeyError(LLAMA.name)
    assert all(now is then for now, then in zip(settings(), before, strict=True))
