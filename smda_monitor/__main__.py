"""``python -m smda_monitor`` is ``smda``."""

import sys

from .cli import main

sys.exit(main())
