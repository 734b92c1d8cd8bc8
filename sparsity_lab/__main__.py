"""`python -m sparsity_lab` is `sparsity-lab`."""

import sys

from sparsity_lab.cli.main import main

sys.exit(main())
