"""Start the JoLA Workbench on this computer: ``python app.py --help``."""

import sys

from workbench.app import main

if __name__ == "__main__":
    sys.exit(main())
