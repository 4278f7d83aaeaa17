"""`python -m poolagg` is the command line."""

import sys

from poolagg._cli.main import main

if __name__ == "__main__":
    sys.exit(main())
