"""The backend that the caller asks for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from lorid_engine import env
from lorid_engine.errors import ConfigError

BACKENDS = ("cpu", "triton", "torch", "reference")
_asked: ContextVar[str | None] = ContextVar("lorid_backend", default=None)


def asked_backend() -> str | None:
    """The backend that use_backend or LORID_BACKEND asks for, if one does.

    Raises:
        ConfigError: LORID_BACKEND names none.
    """
    asked = _asked.get() or env.backend()
    if asked is not None and asked not in BACKENDS:
        raise ConfigError(f"the backend must be one of {', '.join(BACKENDS)}; got {asked!r}")
    return asked


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Runs the ops called inside on one backend: "cpu", "triton", "torch" or "reference"; one that cannot run raises with the reason."""
    if name not in BACKENDS:
        raise ConfigError(f"the backend must be one of {', '.join(BACKENDS)}; got {name!r}")
    token = _asked.set(name)
    try:
        yield
    finally:
        _asked.reset(token)
