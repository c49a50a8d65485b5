"""`python -m siltstone`: the command, where the script of the same name is not on the path."""

import sys

from siltstone.cli import main

sys.exit(main())
