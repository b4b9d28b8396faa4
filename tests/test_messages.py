"""A letter holds all there is to tell, in lines that nothing downstream trips over."""

import json
import math
from dataclasses import replace

from letterboxes import make_alert, make_incident
from records import make_series

from tasks.channels.messages import MOST_SERIES, read_message, tell_series, write_letter, write_message
from tasks.judgement.incidents import Kind


def test_a_letter_says_again_what_its_alert_said() -> None:
    alert = make_alert()
    letter = write_letter(alert, "slack")
    assert (letter.alert_id, letter.channel, letter.made_at) == (alert.alert_id, "slack", alert.made_at)
    assert read_message(letter) == write_message(alert)


def test_a_message_names_the_incident_what_moved_and_why() -> None:
    message = write_message(make_alert())
    assert message.title == (
        "opened slow-3f9a1c: 3 series of fused_moe triton on NVIDIA H200: SLOW, +4.1% to +6.3%, since run run-7"
    )
    assert message.details == [
        "changed with it: triton 3.6.0 -> 3.7.1; config of M=64",
        "evidence: 11.9 us against 11.2 us (+6.3%), 12 earlier nights",
        "told by: run run-9 of suite nightly",
    ]
    assert message.list_series(2) == [*map(tell_series, make_incident().series[:2]), "and 1 more"]
    assert message.list_series(3) == list(map(tell_series, make_incident().series))


def test_only_the_end_of_an_incident_names_the_run_that_found_it_over() -> None:
    over = make_incident(resolved_run="run-12", acknowledgement="bigger tiles, on purpose")
    assert "resolved by run: run-12" in write_message(make_alert(over, Kind.RESOLVED)).details
    assert write_message(make_alert(over, Kind.STILL_OPEN)).resolved_run == ""
    assert "acknowledged: bigger tiles, on purpose" in write_message(make_alert(over)).details


def test_of_many_series_a_letter_lists_some_and_counts_all() -> None:
    message = write_message(make_alert(make_incident(num_series=0, series=(make_series(),) * 5000)))
    assert (len(message.series), message.num_series) == (MOST_SERIES, 5000)
    assert message.list_series(1000)[-1] == "and 4900 more"
    assert len(write_letter(make_alert(make_incident(series=(make_series(),) * 5000)), "mail").body) < 64_000


def test_what_json_cannot_say_of_a_change_is_left_out() -> None:
    body = write_letter(make_alert(make_incident(lowest_change=math.nan, highest_change=math.inf)), "webhook").body
    assert (json.loads(body)["lowest_change"], json.loads(body)["highest_change"]) == (None, None)


def test_no_text_breaks_a_line_or_speaks_to_a_terminal() -> None:
    incident = make_incident(evidence="a\r\nSubject: b\x1b[2J\x00\udc80\N{RIGHT-TO-LEFT OVERRIDE}c", subject="x\ny")
    message = write_message(make_alert(incident))
    assert message.evidence == "a Subject: b [2J c"
    assert "\n" not in message.title
    assert all(line.isprintable() for line in [message.title, *message.details])


def test_a_letter_of_another_version_is_read_as_far_as_it_is_known() -> None:
    letter = write_letter(make_alert(), "mail")
    body = json.loads(letter.body)
    del body["num_series"], body["causes"]
    changed = read_message(replace(letter, body=json.dumps({**body, "color": "red"})))
    assert (changed.num_series, changed.causes, changed.headline) == (0, (), make_incident().headline)
