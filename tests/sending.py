"""What is sent to Ray's workers by value."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

import ray

import tasks.bench


@contextmanager
def sending(*modules: ModuleType) -> Iterator[None]:
    """Modules of tests/, which workers do not have on their path, and that of the Contenders which stand-ins are called
    with: for its name alone they would wait for torch."""
    sent = (*modules, tasks.bench)
    for module in sent:
        ray.cloudpickle.register_pickle_by_value(module)
    try:
        yield
    finally:
        for module in sent:
            ray.cloudpickle.unregister_pickle_by_value(module)
