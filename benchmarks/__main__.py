"""`python -m benchmarks`: all of them."""

import sys

from benchmarks import neighbours, train

sys.exit(max(train.main(), neighbours.main([])))
