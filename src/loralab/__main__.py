"""`python -m loralab`: the same as the `loralab` command."""

import sys

from loralab.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
