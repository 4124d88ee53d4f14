"""ray job submit --working-dir . -- python jobs/verb.py report /mnt/cxrtl/runs/demo

Any verb of `cxrtl`, with its options; relative paths of runs and of what is written lie in $CXRTL_HOME, else ~/cxrtl.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # the working directory that the job brought along

from cxrtl.cli import main

if __name__ == "__main__":
    main(sys.argv[1:])
