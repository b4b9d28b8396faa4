"""What the tests of the 4-bit MoE kernels share: small cases, outputs that were poisoned first, errors."""

import pytest
import torch
from poison import poisoned_empty

from kernels.spec import Case, Kernel, Layer, Tensors

CPU = torch.device("cpu")

FLOAT32_ERROR = 0.007
"""In norm, left when activations are rounded from float32 as the reference does: bfloat16 operands and outputs."""

ROUTINGS = {
    "two experts of four": {},
    "one expert of four": {"top_k": 1, "num_tokens": 9},
    "few pairs for many experts": {"num_experts": 12, "num_tokens": 1},
    "odd and many rows": {"num_tokens": 35, "top_k": 1, "num_experts": 2},
    "weighted input": {"options": {"apply_router_weight_on_input": "true"}},
    "weighted input of one expert": {"top_k": 1, "options": {"apply_router_weight_on_input": "true"}},
    "batched": {"num_tokens": 3, "options": {"activation_format": "batched"}},
    "batched and weighted input": {"options": {"activation_format": "batched", "apply_router_weight_on_input": "true"}},
    "other ranks' experts": {"ep_size": 2, "num_tokens": 7},
    "other ranks' experts, one a token": {"ep_size": 4, "top_k": 1, "num_tokens": 9},
    "few pairs, other ranks' experts": {"num_experts": 8, "ep_size": 2, "num_tokens": 2},
    "weighted input, other ranks' experts": {"ep_size": 2, "options": {"apply_router_weight_on_input": "true"}},
    "batched, other ranks' experts": {"ep_size": 2, "options": {"activation_format": "batched"}},
    "float16": {"dtype": "float16"},
    "sizes that no tile divides": {"k": 160, "n": 96, "num_tokens": 3},
}
"""Names of what each 4-bit MoE kernel is run on, and how it differs from case_of's defaults."""


def case_of(
    kernel: Kernel,
    scheme: str,
    num_experts: int = 4,
    top_k: int = 2,
    k: int = 128,
    n: int = 64,
    num_tokens: int = 5,
    ep_size: int = 1,
    dtype: str = "bfloat16",
    options: dict[str, str] | None = None,
) -> Case:
    sizes = {"num_experts": num_experts, "top_k": top_k, "hidden_size": k, "intermediate_size": n}
    return Case(Layer(kernel.name, "grid", 1, ep_size, scheme, dtype, sizes), num_tokens, options or {})


def tensors_of(kernel: Kernel, case: Case) -> tuple[Tensors, Tensors]:
    weights = kernel.make_weights(case.layer, 1, CPU)
    return weights, kernel.make_inputs(case, weights, 2, CPU)


def relative_error(output: torch.Tensor, reference: torch.Tensor) -> float:
    return ((output.float() - reference).norm() / reference.norm()).item()


def run_poisoned(kernel: Kernel, provider: str, case: Case, weights: Tensors, inputs: Tensors) -> torch.Tensor:
    """The provider's output as it is compared; whatever it left unwritten is NaN."""
    launch = kernel.providers[provider].prepare(case, weights, inputs)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "empty", poisoned_empty)
        outputs = launch.run()
    assert outputs[0].dtype == inputs["hidden_states"].dtype
    assert outputs[0].shape == inputs["hidden_states"].shape
    return kernel.decode(case, inputs, outputs)


def error_of(kernel: Kernel, case: Case, weights: Tensors, inputs: Tensors) -> float:
    """Of our Triton provider, relative in norm."""
    output = run_poisoned(kernel, "triton", case, weights, inputs)
    return relative_error(output, kernel.reference(case, weights, inputs))


def assert_bad_rows_stay_alone(kernel: Kernel, case: Case) -> None:
    """A token of NaN and one of infinity change no other token's output, and are not hidden themselves."""
    weights, inputs = tensors_of(kernel, case)
    clean = run_poisoned(kernel, "triton", case, weights, inputs)
    dirty = inputs["hidden_states"].clone()
    dirty[1], dirty[3, 7] = torch.nan, torch.inf
    output = run_poisoned(kernel, "triton", case, weights, inputs | {"hidden_states": dirty})
    others = [token for token in range(case.num_tokens) if token not in (1, 3)]
    assert torch.equal(output[others], clean[others])
    assert output[1].isnan().all()
    assert not torch.equal(output[3], clean[3])
