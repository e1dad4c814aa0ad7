"""How kernels follow each other: on Hopper and later, a kernel starts while the one before it ends.

Every kernel that is launched so waits (`follow`) before it reads or writes what other kernels of the step touch.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl
from triton.language.extra import cuda


@triton.jit
def follow(OVERLAPS: tl.constexpr):
    """Waits for the kernel before, and lets the one after get ready."""
    if OVERLAPS:
        cuda.gdc_wait()
        cuda.gdc_launch_dependents()


@triton.jit
def let_next_begin(OVERLAPS: tl.constexpr):
    """Lets the kernel after get ready at once, which then may run beside the one before, too; `wait` has to come."""
    if OVERLAPS:
        cuda.gdc_launch_dependents()


@triton.jit
def wait(OVERLAPS: tl.constexpr):
    """Waits for the kernel before."""
    if OVERLAPS:
        cuda.gdc_wait()


def chains() -> bool:
    """Whether a sum may go on from one loop into the next: on all but Blackwell's data center GPUs (sm_100), whose accumulators
    lie in a memory of their own, and where the compiler cannot select some rows of them."""
    return triton.knobs.runtime.interpret or triton.runtime.driver.active.get_current_target().arch // 10 != 10


def multiplies_from_shared() -> bool:
    """Whether matrix instructions take their operands from shared memory: Hopper's, and Blackwell's in data centers."""
    return not triton.knobs.runtime.interpret and triton.runtime.driver.active.get_current_target().arch // 10 in (
        9,
        10,
    )


def overlap_options() -> dict[str, Any]:
    """Options of a launch whose kernel calls `follow`."""
    if triton.knobs.runtime.interpret:
        return {"OVERLAPS": False}
    overlaps = triton.runtime.driver.active.get_current_target().arch >= 90
    return {"OVERLAPS": overlaps, "launch_pdl": overlaps}
