"""`python -m conditional_detr.cli …`, as `cdetr …`."""

import sys

from . import main

sys.exit(main())
