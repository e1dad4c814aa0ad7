"""Lets a new environment see the packages of the one that made it: --system-site-packages alone shows those below both."""

import pathlib
import sys
import sysconfig


def main(environment: str, *options: str) -> None:
    """Writes a .pth into the environment, where it was asked for and this interpreter is in an environment itself."""
    if "--system-site-packages" not in options or sys.prefix == sys.base_prefix:
        return
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = pathlib.Path(environment, "lib", version, "site-packages")
    (packages / "parent.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
