"""`python -m benchmarks`: all of them."""

import sys

from benchmarks.train import main

sys.exit(main())
