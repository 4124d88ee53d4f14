"""ray job submit --working-dir . -- python jobs/run.py jobs/experiments/demo.toml

Does what `cxrtl run` does, with its options; runs and prepared sets go to $CXRTL_HOME, else ~/cxrtl on the head node.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # the working directory that the job brought along

from cxrtl.cli import main

if __name__ == "__main__":
    main(["run", *sys.argv[1:]])
