"""`python -m lorid_engine`: the command `lorid`, for launchers that start modules, such as torchrun."""

import sys

from lorid_engine.cli import main

sys.exit(main())
