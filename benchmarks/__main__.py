"""`python -m benchmarks`: all of them."""

import sys

from benchmarks import families, neighbours, serve, train

sys.exit(max(train.main(), families.main(["--short"]), neighbours.main([]), serve.main()))
