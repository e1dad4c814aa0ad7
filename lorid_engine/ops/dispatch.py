"""Which backend computes an op: the one asked for, or the best one that can; and the registration with torch.library."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from lorid_engine.errors import BackendUnavailableError
from lorid_engine.ops import cpu, gpu
from lorid_engine.ops.asked import asked_backend


@dataclass(frozen=True)
class _Backend:
    name: str
    run: Callable[..., Any]
    why_not: Callable[..., str | None]


class Op:
    """One op: its contract (docstring and checks), its reference, and its backends.

    Calling it checks the arguments and runs the backend that was asked for (`use_backend`, LORID_BACKEND), or the first
    registered one that can take these arguments, or the reference. It is registered as torch.ops.lorid.<name>.
    """

    def __init__(
        self,
        reference: Callable[..., Any],
        check: Callable[..., None],
        fake: Callable[..., Any],
        mutates: Sequence[str] = (),
    ) -> None:
        self.name = reference.__name__.lstrip("_")
        self._reference = reference
        self._check = check
        self._backends: list[_Backend] = []
        self._signature = inspect.signature(reference)
        functools.update_wrapper(self, reference)
        self._registered = torch.library.custom_op(
            f"lorid::{self.name}",
            functools.wraps(reference)(lambda *args: self._run(*args)),
            mutates_args=tuple(mutates),
        )
        self._registered.register_fake(fake)

    def backend(
        self, name: str, why_not: Callable[..., str | None]
    ) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Registers a backend; why_not(*args) returns why it cannot take these arguments, or None."""

        def register(run: Callable[..., Any]) -> Callable[..., Any]:
            self._backends.append(_Backend(name, run, why_not))
            return run

        return register

    def differentiable(self, backward: Callable[..., Any], setup_context: Callable[..., None]) -> None:
        """Registers the op's gradient, as torch.library.register_autograd takes it."""
        self._registered.register_autograd(backward, setup_context=setup_context)

    def __call__(self, *args: Any, **named: Any) -> Any:
        if named:
            bound = self._signature.bind(*args, **named)
            bound.apply_defaults()
            args = bound.args
        if _needs_dispatcher(args):
            return getattr(torch.ops.lorid, self.name)(*args)
        return self._run(*args)

    def _run(self, *args: Any) -> Any:
        self._check(*args)
        asked = asked_backend()
        for backend in self._backends:
            if asked not in (None, backend.name):
                continue
            reason = backend.why_not(*args)
            if reason is None:
                with gpu.current(_device(args)):
                    return backend.run(*args)
            if asked == backend.name:
                raise BackendUnavailableError(f"{self.name} cannot run on the backend {backend.name}: {reason}")
        if asked not in (None, "reference"):
            raise BackendUnavailableError(f"{self.name} has no backend {asked}")
        return self._reference(*args)


def is_watched() -> bool:
    """Whether torch must see every call: it compiles, traces, or has modes, such as fake tensors, that take calls over."""
    return bool(
        torch.compiler.is_compiling()
        or torch._C._get_tracing_state() is not None
        or torch._C._len_torch_dispatch_stack()
        or torch._C._len_torch_function_stack()
    )


def _needs_dispatcher(args: tuple[Any, ...]) -> bool:
    """Whether torch must see the call: it is watched, or a gradient is asked for. Else its detour is saved."""
    if is_watched():
        return True
    wants_grad = torch.is_grad_enabled()
    flat = [each for arg in args for each in (arg if isinstance(arg, list) else (arg,))]
    return any(
        (type(arg) not in (torch.Tensor, torch.nn.Parameter)) or (wants_grad and arg.requires_grad)
        for arg in flat
        if isinstance(arg, torch.Tensor)
    )


def _device(args: tuple[Any, ...]) -> torch.device:
    """Where an op's first tensor lies."""
    flat = (each for arg in args for each in (arg if isinstance(arg, list) else (arg,)))
    return next((each.device for each in flat if isinstance(each, torch.Tensor)), torch.device("cpu"))


def op(
    check: Callable[..., None], fake: Callable[..., Any], mutates: Sequence[str] = ()
) -> Callable[[Callable[..., Any]], Op]:
    """Makes an op of its reference."""
    return lambda reference: Op(reference, check, fake, mutates)


def report() -> dict[str, str]:
    """What each backend can do here: "ready ..." or the reason why not."""
    missing = cpu.why_not()
    return {
        "cpu": f"ready ({cpu.extension().active_isa()})" if missing is None else missing,
        "triton": gpu.why_not()
        or ("ready, interpreted on the CPU" if gpu.interprets() else f"ready ({torch.cuda.get_device_name()})"),
        "torch": "ready (the ops of training, on the CPU and on GPUs)",
        "reference": "ready (plain torch in float64, for tests)",
    }
