"""`python -m storyreason.training job.json`: one training process, started by `accelerate launch`, by torchrun or alone."""

import json
import sys
from pathlib import Path

from storyreason.errors import ConfigError, StoryReasonError
from storyreason.training.launch import ERROR_MARK
from storyreason.training.watch import Watch


def main() -> int:
    watch = Watch()  # before torch is imported, which takes half a minute on a busy machine
    try:
        if len(sys.argv) != 2:
            raise ConfigError("Usage: python -m storyreason.training job.json")
        from storyreason.training import job, process

        process.train(job.read(Path(sys.argv[1])), watch)
    except StoryReasonError as error:
        line = {"error": type(error).__name__, "message": str(error)}
        sys.stderr.write(f"{ERROR_MARK}{json.dumps(line)}\n")
        return 2
    return 0


sys.exit(main())
