"""ray job submit --working-dir . -- python jobs/prepare.py jobs/experiments/effusion.toml

Does what `cxrtl prepare` does, with its options; prepared sets go to $CXRTL_HOME, else ~/cxrtl on the head node.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # the working directory that the job brought along

from cxrtl.cli import main

if __name__ == "__main__":
    main(["prepare", *sys.argv[1:]])
