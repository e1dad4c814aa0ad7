"""Every exception a user can meet. The command line prints one of these as one line and exits with status 2."""

from __future__ import annotations


class LoridError(Exception):
    """Base of everything this package raises on purpose; the message says what was wrong, with what, and what to do."""


class ConfigError(LoridError, ValueError):
    """An option is unknown, out of range, or does not fit the others."""


class ShapeError(LoridError, ValueError):
    """A tensor's shape, dtype, device or layout is not the one that an op states."""


class BackendUnavailableError(LoridError, RuntimeError):
    """A backend, device or instruction set was asked for that this machine or installation does not have."""


class CheckpointError(LoridError, ValueError):
    """A base model's files are missing, damaged, or of a kind that is not supported."""


class AdapterError(LoridError, ValueError):
    """An adapter is unknown, damaged, made for another base, or uses a feature that is not supported."""


class PackError(LoridError, ValueError):
    """A pack's manifest or one of the files it names is missing or wrong, or its base cannot be fetched."""


class RequestError(LoridError, ValueError):
    """One request cannot be served; the others go on."""


class CapacityError(LoridError, RuntimeError):
    """A request or a model can never fit into the memory that was allowed."""


class DataError(LoridError, ValueError):
    """A file of questions or of results that cannot be read, written, or gone on with."""


class TrainingError(LoridError, RuntimeError):
    """Training cannot go on; what was trained until then is kept."""


class TeacherError(LoridError, RuntimeError):
    """The teacher cannot be asked; what it has written is kept."""
