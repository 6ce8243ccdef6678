"""The schedules of `.env`, as the library reads them that runs them."""

import asyncio

from storyreason.errors import ConfigError
from tasks.settings import Settings


def check(chosen: Settings) -> None:
    """Raise ConfigError unless Prefect's server, which runs the schedules, understands them and finds a date for each."""
    from prefect.server.schemas.schedules import CronSchedule

    for name, cron in (("CRON", chosen.cron), ("CLEAN", chosen.clean)):
        if name == "CLEAN" and not cron:
            continue
        try:
            found = asyncio.run(CronSchedule(cron=cron, timezone=chosen.timezone).get_dates(1))
        except ValueError:  # pydantic's, and the cron library's
            found = []
        if not found:
            raise ConfigError(
                f"STORYREASON_{name}={cron}: expected the five fields of a cron schedule that Prefect understands and that "
                "comes some day, such as 0 4 * * 1. Change it in .env or in the environment."
            )
