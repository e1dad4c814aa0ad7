"""Single ops run on torch's own threads: how many, the same bits as on ours, from several callers, and after a fork."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from lorid_engine.ops import cpu

PRELUDE = """
import os, sys, torch
from concurrent.futures import ThreadPoolExecutor
from lorid_engine.ops import AdapterBank, SegmentPlan, cpu, lora_linear, pack_linear

torch.manual_seed(0)
bank = AdapterBank.from_tensors([(torch.randn(70, 131), torch.randn(200, 70), 0.5)])
weight, x = torch.randn(200, 131), torch.randn(90, 131)
plan = SegmentPlan.from_slots([0] * 60 + [-1] * 30)
result = lambda: lora_linear(x, pack_linear(weight), bank, plan)
"""


def run(code: str) -> str:
    """What a process without our variables prints."""
    command = [sys.executable, "-c", PRELUDE + code]
    done = subprocess.run(command, env={"PATH": ""}, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.skipif("OpenMP" not in torch.__config__.parallel_info(), reason="this torch computes without OpenMP")
def test_as_many_as_torch_has() -> None:
    code = "torch.set_num_threads(3); print(cpu.op_threads(), cpu.extension().max_host_threads())"
    assert run(code) == "3 3"
    assert run("os.environ['LORID_THREADS'] = '5'; print(cpu.op_threads())") == "5"


@pytest.mark.skipif("OpenMP" not in torch.__config__.parallel_info(), reason="this torch computes without OpenMP")
def test_torchs_threads_live_on() -> None:
    """OpenMP ends the threads that a smaller team leaves over, and torch would have to start them anew after each op of ours."""
    code = """
torch.set_num_threads(4)
big = torch.randn(400, 400)
big @ big
before = set(os.listdir("/proc/self/task"))
for threads in ("2", "3", "1"):
    os.environ["LORID_THREADS"] = threads
    result()
    big @ big
print(set(os.listdir("/proc/self/task")) == before)
"""
    assert run(code) == "True"


def test_the_same_bits_on_ours() -> None:
    code = """
torch.set_num_threads(3)
shared = result()
cpu.extension().set_host_threads(parallel=0, thread_num=0, max_threads=0)
assert cpu.extension().max_host_threads() == 0
print(torch.equal(shared, result()))
"""
    assert run(code) == "True"


def test_from_several_callers_at_once() -> None:
    code = """
torch.set_num_threads(2)
first = result()
with ThreadPoolExecutor(4) as callers:
    print(all(torch.equal(first, each) for each in callers.map(lambda _: result(), range(40))))
"""
    assert run(code) == "True"


def test_after_a_fork() -> None:
    """OpenMP's threads are not there in a child: ours are used."""
    code = """
torch.set_num_threads(2)
first = result()
child = os.fork()
if child == 0:
    same = torch.equal(first, result()) and cpu.extension().max_host_threads() == 0
    os._exit(0 if same else 1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), torch.equal(first, result()))
"""
    assert run(code) == "0 True"


def test_first_used_in_a_child_of_a_fork() -> None:
    code = """
torch.set_num_threads(2)
big = torch.randn(400, 400)
big @ big
child = os.fork()
if child == 0:
    result()
    os._exit(cpu.extension().max_host_threads())
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    assert run(code) == "0"


def test_which_runtime_is_torchs() -> None:
    """Other packages bring copies of their own; two of unknown owners are none."""
    torchs = torch.__file__.replace("__init__.py", "lib/libgomp.so.1")
    line = "7f0000000000-7f0000001000 r-xp 00000000 fe:00 42    {}"
    maps = [line.format(path) for path in ("/usr/lib/libc.so.6", "/x/sentencepiece.libs/libgomp-6a.so.1.0.0")]
    assert cpu._openmp_of_torch("\n".join([*maps, line.format(torchs)])) == torchs
    assert cpu._openmp_of_torch(line.format("/opt/libiomp5.so")) == "/opt/libiomp5.so"
    assert cpu._openmp_of_torch("\n".join([*maps, line.format("/opt/libomp.so")])) is None
    assert cpu._openmp_of_torch("7f0000000000-7f0000001000 rw-p 00000000 00:00 0") is None
