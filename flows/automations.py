"""Prefect automations: mark runs whose process is gone as crashed, and notify somebody when a run needs attention."""

from datetime import timedelta
from typing import TYPE_CHECKING
from uuid import UUID

from tasks.faults import GO_ON
from tasks.gate import HELD
from tasks.settings import Settings

if TYPE_CHECKING:
    from prefect.automations import Automation

GONE_AFTER = 10
"""How many heartbeats must be missing before a run counts as gone. Prefect suggests three; busy machines delay them."""
BLOCK = "storyreason-notify"
NOTIFIED = {
    "failed": "prefect.flow-run.Failed",
    "crashed": "prefect.flow-run.Crashed",
    "late": "prefect.flow-run.Late",
    "waiting for approval": "prefect.flow-run.Paused",
}
"""The Prefect events of runs to notify of, by the words in the automations' names and the notifications' subjects."""
PREFIX = "storyreason: "
"""Begins the names of this project's automations."""
BODY = """{{ flow.name }} / {{ flow_run.name }} is {{ flow_run.state.name }}: {{ flow_run.state.message }}
{{ flow_run|ui_url }}"""
HELD_BODY = "{{ event.payload.version }}: {{ event.payload.reason }}"


def everything(chosen: Settings) -> "list[Automation]":
    """The automations of this checkout. Those that notify exist only when `STORYREASON_NOTIFY` is set."""
    from prefect.automations import Automation, ChangeFlowRunState, EventTrigger, SendNotification
    from prefect.client.schemas.objects import StateType
    from prefect.events import Posture

    runs = {"prefect.resource.id": "prefect.flow-run.*"}
    # A run that has ended or waits for its turn sends no heartbeats either.
    quiet = ("Completed", "Failed", "Cancelled", "Crashed", "Scheduled", "AwaitingRetry", "AwaitingConcurrencySlot")
    found = [
        Automation(
            name=f"{PREFIX}a run whose process is gone has crashed",
            description=f"Marks a run as Crashed when {GONE_AFTER} heartbeats of its process are missing; they come every "
            f"{chosen.heartbeat} s.",
            trigger=EventTrigger(
                after={"prefect.flow-run.heartbeat"},
                expect={"prefect.flow-run.heartbeat", *(f"prefect.flow-run.{name}" for name in quiet)},
                match=runs,
                for_each={"prefect.resource.id"},
                posture=Posture.Proactive,
                threshold=1,
                within=timedelta(seconds=GONE_AFTER * chosen.heartbeat),
            ),
            actions=[
                ChangeFlowRunState(
                    state=StateType.CRASHED,
                    message=f"Its process is gone (no heartbeats). {GO_ON}",
                )
            ],
        )
    ]
    if not chosen.notify:
        return found
    block = _block(chosen.notify)
    for word, event in {**NOTIFIED, "not promoted": HELD}.items():
        held = event == HELD
        found.append(
            Automation(
                name=f"{PREFIX}notify when a {'version' if held else 'run'} is {word}",
                description=f"Sends a message to STORYREASON_NOTIFY when a {'version' if held else 'run'} is {word}.",
                trigger=EventTrigger(
                    expect={event},
                    match={"prefect.resource.id": "storyreason.model.*"} if held else runs,
                    posture=Posture.Reactive,
                    threshold=1,
                ),
                actions=[
                    SendNotification(
                        block_document_id=block,
                        subject=f"{PREFIX}{word}",
                        body=HELD_BODY if held else f"{BODY}\n{GO_ON}" if word == "crashed" else BODY,
                    )
                ],
            )
        )
    return found


def _block(url: str) -> UUID:
    """The block that sends the notifications. Prefect's Slack block accepts any address that Apprise knows."""
    from prefect.blocks.notifications import SlackWebhook
    from pydantic import SecretStr

    saved = SlackWebhook(url=SecretStr(url)).save(BLOCK, overwrite=True)
    return UUID(str(saved))


def apply(chosen: Settings) -> None:
    """Create or update the automations. A disabled one stays disabled; obsolete ones are deleted."""
    from prefect.client.orchestration import get_client

    wanted = {one.name: one for one in everything(chosen)}
    with get_client(sync_client=True) as client:
        known = {one.name: one for one in client.read_automations() if one.name.startswith(PREFIX)}
        for name, one in known.items():
            if name not in wanted:
                client.delete_automation(one.id)
    for name, automation in wanted.items():
        if name in known:
            automation.id, automation.enabled = known[name].id, known[name].enabled
            automation.update()
        else:
            automation.create()
