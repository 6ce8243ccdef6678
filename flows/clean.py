"""Free disk space on a schedule: `storyreason clean` as a flow."""

from prefect import flow, get_run_logger
from prefect.states import Completed, State

from storyreason.errors import RunError
from tasks import cleaning
from tasks.faults import plainly


@flow(name="clean")
@plainly()
def clean(keep: int = 3) -> State[None]:
    """Remove what nothing uses any more; while a job runs, nothing is removed.

    Args:
        keep: How many of the newest versions to keep, besides those with an alias.
    """
    try:
        items = cleaning.plan(keep)
    except RunError as error:
        return Completed(name="Skipped", message=str(error))
    cleaning.remove(items)
    get_run_logger().info("%s", cleaning.report(items, removed=True))
    return Completed(message=f"{len(items)} folders removed, {sum(item.bytes for item in items) / 1e6:,.1f} MB")
