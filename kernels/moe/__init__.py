"""What the MoE kernels share: inputs, the formula, alignment, GEMMs and vLLM's layers."""
