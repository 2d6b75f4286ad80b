"""The stages. This package is imported before numpy and torch: it settles how they round, and what torch leaves out.

Where the environment names a warm parent, a stage's process goes no further than here: a fork of the parent runs it.
"""

import sys

from optogram.pipeline.costs import record_at_end
from optogram.pipeline.warm_client import hand_over

hand_over()
record_at_end()

# what follows imports more than a process that hands itself over should pay for
from optogram.store.rounding import settle_environment, threads_in  # noqa: E402
from stages.compiler import put_off  # noqa: E402

if "torch" not in sys.modules:
    settle_environment(threads_in())

put_off()
