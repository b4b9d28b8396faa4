"""What the processes of compilations.py have done when they are forked: each would take seconds for it.

Our kernels are imported, and with them torch; Triton's own files are hashed, which are in the key of what it compiles.
"""

import compilations  # noqa: F401
from triton.runtime.cache import triton_key

from kernels.registry import kernels

kernels()
triton_key()
