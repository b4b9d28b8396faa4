"""What the linear layers share: inputs and costs, our Triton kernels, and vLLM's layers."""
