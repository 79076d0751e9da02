"""`python -m conditional_detr` is `cdetr`."""

import sys

from .cli import main

sys.exit(main())
