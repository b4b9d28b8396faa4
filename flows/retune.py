"""Tunes launch configurations: of each layer that is asked for, on all GPUs, into vLLM's files."""

import os
from pathlib import Path

from prefect import flow
from rich.console import Console

from flows.arguments import SEARCH_SECONDS
from flows.choice import choose_device
from flows.pull_request import deliver
from tasks.channels.secrets import hide_secrets
from tasks.errors import TuningError
from tasks.lines import print_line
from tasks.planning.cases import Selection
from tasks.session import open_workshop
from tasks.stages import retune_layer
from tasks.tuning.requests import list_requests
from tasks.tuning.retuning import Retuned


@flow(name="retune")
def retune(
    selection: Selection,
    seed: int = 0,
    device: str = "auto",
    save_dir: Path = Path("results"),
    address: str = "",
    budget: float = SEARCH_SECONDS,
    markdown: Path | None = None,
) -> list[Retuned]:
    """Search better launch configurations, and hand over what beats today's in a final comparison.

    Args:
        selection: names models, and narrows kernels, schemes and providers.
        seed: of weights, inputs and the search; another one searches anew what was searched before.
        device: "cuda", "cpu", or "auto" for a GPU if there is one.
        save_dir: folder of the database and of tuned_configs/.
        address: of a running Ray cluster; empty is RAY_ADDRESS, and without that one is started on this machine.
        budget: seconds of proposing configurations for each layer; the final comparisons come on top.
        markdown: file for the summaries.
    Returns:
        What came of each layer.
    Raises:
        TuningError: a layer could not be tuned; the others were.
        WorkerError: no worker is left; the same command goes on from there.
    """
    device_type, address = choose_device(device, address)
    requests = list_requests(selection, device_type, save_dir, seed, budget)
    console, found, failures = Console(), list[Retuned](), list[str]()
    with hide_secrets(os.environ), open_workshop(device_type, save_dir, address, console) as workshop:
        try:
            for request in requests:
                try:
                    found += retune_layer(workshop, request)
                except TuningError as failure:
                    print_line(console, f"not tuned: {failure}")
                    failures.append(str(failure))
        finally:
            if found:
                text = "\n".join(f"{retuned.summary}\n{retuned.told_file}\n" for retuned in found)
                deliver(text, "What tuning has found", console, markdown, os.environ)
    if failures:
        raise TuningError(f"{len(failures)} of {len(requests)} layers could not be tuned: {'; '.join(failures)}")
    return found
