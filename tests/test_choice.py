"""Where a run goes: the option, RAY_ADDRESS, or this machine; devices and suites that do not fit are in test_cli.py."""

import pytest

from flows.choice import SITE_URL, choose_suite, read_address, read_site_url
from tasks.errors import UsageError


@pytest.mark.parametrize(
    ("option", "variable", "address"),
    [
        ("", "", ""),
        ("", "10.0.0.1:6379", "10.0.0.1:6379"),
        ("10.0.0.2:6379", "10.0.0.1:6379", "10.0.0.2:6379"),
        ("local", "10.0.0.1:6379", ""),
        ("", "local", ""),
        ("", "auto", "auto"),
        ("ray://head:10001", "", "ray://head:10001"),
        ("[::1]:6379", "", "[::1]:6379"),
    ],
)
def test_the_option_wins_over_the_variable(
    option: str, variable: str, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", variable)
    assert read_address(option) == address


@pytest.mark.parametrize("address", ["head", "http://head:6379", "head:", ":6379", "head:6379/path", "automatic"])
def test_what_is_no_address_is_refused_and_its_source_named(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(UsageError, match=r"^--address .* is not host:port, ray://host:port, auto or local$"):
        read_address(address)
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(UsageError, match=r"^RAY_ADDRESS .* is not host:port"):
        read_address("")


def test_a_cluster_is_taken_to_have_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    chosen = choose_suite("auto", "auto", "")
    assert (chosen.suite.name, chosen.device_type, chosen.address) == ("nightly", "cuda", "10.0.0.1:6379")
    chosen = choose_suite("smoke", "cpu", "")
    assert (chosen.device_type, chosen.address) == ("cpu", "10.0.0.1:6379")


@pytest.mark.parametrize(
    ("value", "url"),
    [
        ("", ""),
        (" ", ""),
        ("https://bench.example.org", "https://bench.example.org/"),
        ("http://h:80/a/", "http://h:80/a/"),
    ],
)
def test_the_address_of_the_site_ends_with_a_slash(value: str, url: str) -> None:
    assert read_site_url({SITE_URL: value}) == url


@pytest.mark.parametrize(
    "value",
    ["bench.example.org", "ftp://h/", "https://", "https://me:s3cr3t@h/", "https://h/?s3cr3t", "http://[s3cr3t/"],
)
def test_an_address_that_not_everybody_may_see_is_refused_and_not_repeated(value: str) -> None:
    with pytest.raises(UsageError, match=rf"^{SITE_URL} is not http://host/folder/") as refused:
        read_site_url({SITE_URL: value})
    assert "s3cr3t" not in str(refused.value)


def test_a_malformed_address_of_the_site_ends_a_run_before_it_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SITE_URL, "somewhere")
    with pytest.raises(UsageError, match=SITE_URL):
        choose_suite("smoke", "cpu", "")
