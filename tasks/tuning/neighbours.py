"""Whether the entry of a file loses to its neighbours: those of other batch sizes in the same file.

Nobody tuned an entry that vLLM takes because it is the nearest, and a tuner that believed a lucky time left a worse one
beside a better one. Both show as soon as the entries around it are timed in turn with it.
"""

from collections.abc import Sequence

from kernels.moe.vllm_config_files import Config, ConfigFile
from kernels.spec import Case
from tasks.tuning.contest import FIRST_LOOK, find_ratio
from tasks.tuning.files import find_entry, find_place
from tasks.tuning.space import config_key
from tasks.tuning.staleness import NOISE, Loss
from tasks.tuning.trials import Bench, Question, Trial

REACH = 2
"""Entries on each side."""


def list_neighbours(file: ConfigFile, batch_size: int) -> dict[int, Config]:
    """Entries next to the one that vLLM takes, by the batch size they are for; those that differ from it, each once."""
    sizes = sorted(file.configs)
    at = sizes.index(find_place(file, batch_size))
    found: dict[str, int] = {}
    for size in sizes[max(0, at - REACH) : at + REACH + 1]:
        found.setdefault(config_key(file.configs[size]), size)
    found.pop(config_key(file.configs[sizes[at]]))
    return {size: file.configs[size] for size in found.values()}


def time_neighbours(file: ConfigFile, cases: Sequence[Case], bench: Bench) -> list[Loss]:
    """What the entries for some cases lose to the best of their neighbours, where that is more than noise.

    Args:
        file: has an entry at least.
        cases: of one layer, each of another batch size.
        bench: times the layer.
    """
    asked = [(case, list_neighbours(file, case.num_tokens)) for case in cases]
    asked = [(case, near) for case, near in asked if near]
    if not asked:
        return []
    questions = [
        Question(case.num_tokens, (find_entry(file, case.num_tokens), *near.values()), FIRST_LOOK, is_checked=True)
        for case, near in asked
    ]
    answers = bench.measure(questions)
    losses = [find_loss(case, list(near), each.trials) for (case, near), each in zip(asked, answers, strict=True)]
    return [loss for loss in losses if loss]


def find_loss(case: Case, sizes: Sequence[int], trials: Sequence[Trial]) -> Loss | None:
    """The loss to the neighbour that gains most, with its whole interval beyond noise.

    Args:
        sizes: batch sizes of the neighbours.
        trials: of the entry, then of the neighbours.
    """
    own, *others = trials
    if not own.samples_us:
        return None
    gains = [
        Loss(case, own.median_us, other.median_us, f"its entry for M={size}", is_beyond_noise=True)
        for size, other in zip(sizes, others, strict=True)
        if other.samples_us and find_ratio(other.samples_us, own.samples_us).high * (1 + NOISE) < 1
    ]
    return max(gains, key=lambda loss: loss.lost_us, default=None)
