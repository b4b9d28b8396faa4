"""Tunes launch configurations: of each layer that is asked for, on all GPUs, into vLLM's files."""

from pathlib import Path

from prefect import flow
from rich.console import Console

from flows.choice import choose_device
from tasks.cases import Selection
from tasks.session import open_workshop
from tasks.stages import retune_layer
from tasks.tuning.requests import list_requests
from tasks.tuning.retuning import Retuned

BUDGET_SECONDS = 300.0
"""Of searching each layer: all 18 batch sizes of a shape on one H200 are to be done in that time."""


@flow(name="retune")
def retune(
    selection: Selection,
    seed: int = 0,
    device: str = "auto",
    save_dir: Path = Path("results"),
    address: str = "",
    budget: float = BUDGET_SECONDS,
) -> list[Retuned]:
    """Search better launch configurations, and hand over what beats today's in a final comparison.

    Args:
        selection: names models, and narrows kernels, schemes and providers.
        seed: of weights, inputs and the search; another one searches anew what was searched before.
        device: "cuda", "cpu", or "auto" for a GPU if there is one.
        save_dir: folder of the database and of tuned_configs/.
        address: of a running Ray cluster; empty is RAY_ADDRESS, and without that one is started on this machine.
        budget: seconds of proposing configurations for each layer; the final comparisons come on top.
    Returns:
        What came of each layer.
    Raises:
        WorkerError: no worker is left; the same command goes on from there.
    """
    device_type, address = choose_device(device, address)
    requests = list_requests(selection, device_type, save_dir, seed, budget)
    with open_workshop(device_type, save_dir, address, Console()) as workshop:
        return [retuned for request in requests for retuned in retune_layer(workshop, request)]
