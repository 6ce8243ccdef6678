"""The gateway as a process of its own: `python -m storyreason.serving '{"port": 8400}'`."""

import sys

from storyreason.errors import StoryReasonError
from storyreason.serving.config import ServingConfig
from storyreason.serving.gateway import run

try:
    run(ServingConfig.model_validate_json(sys.argv[1]))
except StoryReasonError as error:
    sys.exit(str(error))
