"""``python -m load_tests.goals`` (load_tests.goals.command)."""

import sys

from load_tests.goals.command import main

sys.exit(main())
