"""Approval before promotion: a separate run pauses with the gate's report and a form; MLflow remembers the answer.

If the retraining itself paused, Prefect would release its concurrency lease (deployments run one at a time) and end the
run minutes later because the lease is gone.
"""

import time
from typing import Any, Literal, cast
from uuid import UUID

from prefect import flow, get_run_logger
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowFilter, FlowRunFilter
from prefect.input import RunInput
from prefect.input.run_input import keyset_from_paused_state
from prefect.runtime import flow_run
from prefect.states import Cancelled, Paused, Running
from prefect.utilities.engine import propose_state_sync
from prefect.utilities.urls import url_for
from pydantic import Field

from storyreason.config import RunConfig
from storyreason.errors import RunError
from tasks import registry, tracking

EVERY = 2.0
"""Seconds between checks for an answer."""
MARGIN = 3600
"""Seconds by which Prefect's timeout is later than ours: Prefect's would fail the run, while no answer means to hold."""


class Approval(RunInput):
    """The form to fill in."""

    decision: Literal["promote", "hold"] = Field(description="promote: serve it; hold: what is served stays.")
    comment: str = Field("", max_length=400, description="Why; kept with the version in MLflow.")


def ask(config: RunConfig, version: registry.Version, report: str) -> tuple[bool, str]:
    """Whether a version is approved for promotion, and the reason as a sentence. No answer in time means to hold.

    An answer is not asked for twice: it is read from the version's tags in MLflow.
    """
    tags = registry.tags_of(version)
    if tags.get("approval") in ("promote", "hold"):
        return _answered(tags["approval"], tags.get("approval_comment", ""))
    identity = str(flow_run.get_id())
    answer = approve(version.name, version.number, report, config.gate.approval_timeout)
    if answer is None:
        registry.tag_version(version, approval="no answer", approval_run=identity, gate="hold")
        return (
            False,
            f"nobody answered within {config.gate.approval_timeout:.0f} s: hold. Run it again to be asked again",
        )
    registry.tag_version(
        version,
        approval=answer.decision,
        approval_comment=answer.comment,
        approval_run=identity,
        gate=answer.decision,
    )
    section = f"\n## Approval\n\n**{answer.decision}** {answer.comment}\n"
    tracking.client().log_text(version.run_id, report + section, "gate/report.md")
    return _answered(answer.decision, answer.comment)


def _answered(decision: str, comment: str) -> tuple[bool, str]:
    return decision == "promote", f"the answer to the request for approval: {decision}" + (
        f" ({comment})" if comment else ""
    )


@flow(name="approve", flow_run_name="approve-{model}-{number}", validate_parameters=False, persist_result=False)
def approve(model: str, number: str, report: str, timeout: float) -> Approval | None:
    """Pause with the report and the form for at most `timeout` seconds; None when nobody answers."""
    identity = UUID(str(flow_run.get_id()))
    get_run_logger().info(
        "%s version %s waits up to %.0f s for approval: promote or hold it at %s",
        model,
        number,
        timeout,
        url_for("flow-run", identity) or "Prefect's UI",
    )
    state: Any = Paused(timeout_seconds=int(timeout + MARGIN), pause_key=f"approval-{time.time_ns()}")
    state.state_details.run_input_keyset = keyset = keyset_from_paused_state(state)
    form = Approval.with_initial_data(description=report)
    with get_client(sync_client=True) as client:
        _close_forms_before(client, f"approve-{model}-{number}")
        form.save(keyset, flow_run_id=identity)
        paused = propose_state_sync(client, state, flow_run_id=identity)
        if not paused.is_paused():
            raise RunError(f"Prefect did not let the run pause for approval, but put it into state {paused.name}.")
        deadline = time.monotonic() + timeout
        while (now := client.read_flow_run(identity).state) is not None and now.is_paused():
            if time.monotonic() > deadline:
                client.set_flow_run_state(identity, Running())
                return None
            time.sleep(EVERY)
        if now is None or not now.is_running():
            raise RunError(f"The run was ended while it waited for approval (state {now and now.name}).")
        return cast(Approval, Approval.load(keyset, flow_run_id=identity))


def _close_forms_before(client: SyncPrefectClient, name: str) -> None:
    """Close the forms of killed runs, whose answers nobody would receive."""
    paused = {"name": {"any_": [name]}, "state": {"type": {"any_": ["PAUSED"]}}}
    for one in client.read_flow_runs(
        flow_filter=FlowFilter.model_validate({"name": {"any_": ["approve"]}}),
        flow_run_filter=FlowRunFilter.model_validate(paused),
    ):
        client.set_flow_run_state(one.id, Cancelled(message="The run that asked has ended."), force=True)
