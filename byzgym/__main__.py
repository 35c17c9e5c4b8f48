"""`python -m byzgym`: the command line."""

import sys

from byzgym.cli import main

if __name__ == "__main__":
    sys.exit(main())
