"""The implementations of silu_mul_fp8: our Triton kernel and vLLM's two, and the groups they quantize by."""
