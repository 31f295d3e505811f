"""`python -m benchmarks`: all of them."""

import sys

from benchmarks import neighbours, serve, train

sys.exit(max(train.main(), neighbours.main([]), serve.main()))
