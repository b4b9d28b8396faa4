"""What is done in the process that those of compilations.py are forked from: each would take seconds for it.

Our kernels are imported, and with them torch; Triton's own files are hashed, which are in the key of what it compiles.
"""

from triton.runtime.cache import triton_key

from kernels.registry import kernels

kernels()
triton_key()
