"""``python -m ircdeblur`` is the command ``ircdeblur``."""

import sys

from ircdeblur.app.cli import main

if __name__ == "__main__":
    sys.exit(main())
