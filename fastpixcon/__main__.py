"""``python -m fastpixcon``, which torchrun starts as ``-m fastpixcon``."""

import sys

from fastpixcon.cli import main

sys.exit(main())
