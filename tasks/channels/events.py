"""Alerts as events of Prefect, for its automations: alerts.yaml reacts to them."""

from uuid import NAMESPACE_URL, uuid5

from tasks.channels.letters import Letter
from tasks.channels.messages import Message, read_message
from tasks.errors import ChannelError

TIMEOUT_SECONDS = 4.0
"""Longest wait for each part of the server's answer."""
PREFIX = "kernel-nightly.incident"
"""Of the names of the events and of the ids of their resources."""
MOST_SERIES = 20
"""In an event's payload."""


class EventChannel:
    """Sends each alert to the Prefect server that shows the run.

    By the API and not by `prefect.events.emit_event`: that one hands the event to a thread, which drops what it cannot
    send, so that nobody would learn of it.
    """

    name = "prefect"

    def send(self, letter: Letter) -> None:
        """Deliver a letter; the server knows one that it gets twice by its id."""
        import httpx
        from prefect.client.orchestration import get_client
        from prefect.exceptions import PrefectException
        from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings

        event = make_event(read_message(letter))
        try:
            with (
                temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}),
                get_client(sync_client=True, httpx_settings={"timeout": TIMEOUT_SECONDS}) as client,
            ):
                client.request("POST", "/events", json=[event])
        except httpx.HTTPStatusError as error:
            raise ChannelError(f"the Prefect server answers {error.response.status_code} to an event") from None
        except (httpx.HTTPError, PrefectException, RuntimeError, OSError) as error:
            raise ChannelError(
                f"the Prefect server of PREFECT_API_URL takes no event: {type(error).__name__}"
            ) from None


def make_event(message: Message) -> dict[str, object]:
    """The event of a message, as Prefect's API takes it."""
    from prefect.events import Event, RelatedResource, Resource
    from prefect.runtime import flow_run

    resource = {
        "prefect.resource.id": f"{PREFIX}.{message.incident_id}",
        "prefect.resource.name": message.headline,
        "kernel-nightly.state": message.state,
        "kernel-nightly.suite": message.suite,
        "kernel-nightly.run": message.run_id,
    }
    related = [{"prefect.resource.id": f"prefect.flow-run.{flow_run.id}", "prefect.resource.role": "flow-run"}]
    event = Event(
        id=uuid5(NAMESPACE_URL, f"kernel-nightly/{message.alert_id}"),
        event=f"{PREFIX}.{message.kind.replace(' ', '-')}",
        resource=Resource(resource),
        related=[RelatedResource(entry) for entry in related if flow_run.id],
        payload={
            "title": message.title,
            "details": message.details,
            "causes": message.causes,
            "num_series": message.num_series,
            "series": message.list_series(MOST_SERIES),
        },
    )
    return event.model_dump(mode="json")
