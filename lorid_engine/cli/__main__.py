"""python -m lorid_engine.cli"""

import sys

from lorid_engine.cli import main

sys.exit(main())
