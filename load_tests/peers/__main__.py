"""``python -m load_tests.peers`` (load_tests.peers.command)."""

import sys

from load_tests.peers.command import main

sys.exit(main())
