"""Where a number came from: this process."""

from dataclasses import fields

import pytest
import torch

from tasks.provenance import describe_host, package_version


def test_versions_are_read_without_importing() -> None:
    assert package_version("torch").partition("+")[0] == torch.__version__.partition("+")[0]
    assert package_version("no_such_package") == ""
    assert package_version("tasks") == "unknown"  # importable, and no distribution of that name


def test_a_host_is_described_by_what_is_really_there() -> None:
    host = describe_host(torch.device("cpu"))
    assert host.device.type == "cpu"
    assert host.device.name.startswith("cpu: ")
    assert (host.device_uuid, host.driver) == ("", "")
    assert host.torch == torch.__version__
    assert host.num_cpus >= 1
    assert len(host.host_id) == 16


def test_the_same_environment_has_the_same_id() -> None:
    first, second = describe_host(torch.device("cpu")), describe_host(torch.device("cpu"))
    assert first == second
    assert all(getattr(first, field.name) is not None for field in fields(first))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_a_gpu_is_described_by_its_driver() -> None:
    host = describe_host(torch.device("cuda", 0))
    assert host.device_uuid.startswith("GPU-")
    assert host.driver
    assert host.cuda
