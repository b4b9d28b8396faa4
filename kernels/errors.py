"""The root of the project's exceptions, and those a kernel may raise. tasks/errors.py draws the whole tree."""


class BenchmarkError(Exception):
    """Anything this project raises on purpose: one line that names the value, the limit and the next step."""

    exit_code = 2


class KernelError(BenchmarkError):
    """A kernel file or one of its functions was used in a way it does not support."""


class ShapeError(KernelError):
    """A tensor or layer size breaks a constraint of the kernel."""


class ConfigError(KernelError):
    """A kernel was given a launch configuration that is not one of its own."""


class RegistryError(KernelError):
    """A file in kernels/ does not import, or does not declare its KERNEL as CONTRIBUTING.md says."""


class OutOfMemoryError(KernelError):
    """Tensors would not fit into the memory that is free. Named as torch's own, so that it gets the same status."""
