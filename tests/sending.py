"""What is sent to Ray's workers by value.

Modules of tests/, which they do not have on their path; and tasks.bench where stand-ins are called with its Contenders,
for whose name alone each of their processes would import torch.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

import ray


@contextmanager
def sending(*modules: ModuleType) -> Iterator[None]:
    """Classes and functions of these modules cross as they are, not as names, while the block runs."""
    for module in modules:
        ray.cloudpickle.register_pickle_by_value(module)
    try:
        yield
    finally:
        for module in modules:
            ray.cloudpickle.unregister_pickle_by_value(module)
