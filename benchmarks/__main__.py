"""`python -m benchmarks`: all of them."""

import sys

from benchmarks import families, neighbours, train

sys.exit(max(train.main(), families.main(["--short"]), neighbours.main([])))
