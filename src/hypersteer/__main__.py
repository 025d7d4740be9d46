"""`python -m hypersteer`, which is also what `accelerate launch -m hypersteer` runs."""

import sys

from hypersteer.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
