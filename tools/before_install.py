"""Says what the set-up will download and checks the interpreter; runs before there is an environment, so nothing is imported."""

import sys


def main() -> int:
    """Returns the exit status."""
    if sys.version_info < (3, 10):  # noqa: UP036 (an older one may well run this)
        print("lorid-engine needs Python 3.10 or newer; this is %d.%d: pass PYTHON=..." % sys.version_info[:2])  # noqa: UP031
        return 1
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError as error:
        print(
            f"this Python has no {error.name} (on Debian: apt-get install python3-venv python3-dev), or pass PYTHON=..."
        )
        return 1
    print("Setting up .venv. Downloads: torch 192 MB (its CPU build; builds for GPUs take gigabytes, see README.md),")
    print(
        "triton 188 MB, transformers and the rest about 60 MB; the default base, on first use, 93 MB. The C++ kernels are"
    )
    print("compiled here, about a minute. PIP_ARGS and VENV_ARGS=--system-site-packages change where torch comes from.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
