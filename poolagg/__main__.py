"""Run the command line: `python -m poolagg`."""

import sys

from poolagg._cli.main import main

if __name__ == "__main__":
    sys.exit(main())
