"""``python -m load_tests`` runs every benchmark."""

import sys

from load_tests.benchmarks import main

sys.exit(main())
