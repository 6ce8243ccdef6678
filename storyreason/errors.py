"""Every error this project raises on purpose.

Each message says what was found, what was expected and what to do, in one or two sentences: the command line prints it
without a stack trace and exits with code 2.
"""

import re


def without_password(text: str) -> str:
    """A text with its addresses as messages show them: `postgresql://me:secret@host/db` is `postgresql://me:***@host/db`."""
    return re.sub(r"(://[^:/@\s]*):[^@\s]*@", r"\1:***@", text)


class StoryReasonError(Exception):
    """The root of the tree: a fault the user can fix. Exit code 2. Its message never shows the password of an address."""

    def __str__(self) -> str:
        return without_password(super().__str__())


class ConfigError(StoryReasonError):
    """A preset, a flag or a setting is unknown, ill-typed or contradictory."""


class DataError(StoryReasonError):
    """The data set cannot be pulled, is not in the published layout, or holds too many bad examples."""


class ModelError(StoryReasonError):
    """A model folder cannot be loaded, merged or written."""


class TrainingError(StoryReasonError):
    """The training process refused to start or ended without a result."""


class EngineError(StoryReasonError):
    """An inference engine did not start, died, or gave an unusable answer."""


class EngineAwayError(EngineError):
    """An engine or endpoint is unreachable now, but may answer when asked again."""


class ScoringError(StoryReasonError):
    """Predictions and data do not fit together, or are too few to decide on."""


class GatewayError(StoryReasonError):
    """The gateway is unreachable, its port is taken, or it refused a deployment."""


class RegistryError(StoryReasonError):
    """The model registry has no such model, version or alias, or cannot be reached."""


class RunError(StoryReasonError):
    """A work folder is held by another process or cannot be written."""
