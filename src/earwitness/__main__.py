"""`python -m earwitness`, which is what a launcher starts."""

import sys

from earwitness.cli import main

if __name__ == "__main__":
    sys.exit(main())
