"""``python -m skad.benchmark``."""

import sys

from skad.benchmark._command import main

if __name__ == "__main__":
    sys.exit(main())
