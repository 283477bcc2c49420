"""``python -m cluster.cli`` is ``adasd``."""

import sys

from cluster.cli import main

sys.exit(main())
