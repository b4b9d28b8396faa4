"""Where a number came from: real git repositories, and this process."""

import subprocess
from dataclasses import fields
from pathlib import Path

import pytest
import torch

from tasks.provenance import describe_host, package_version, read_git_state


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=tester", "-c", "user.email=tester@example.org", "-c", "commit.gpgsign=false")
    done = subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    git(tmp_path, "init", "--quiet")
    (tmp_path / "tracked.txt").write_text("one\n")
    git(tmp_path, "add", "tracked.txt")
    git(tmp_path, "commit", "--quiet", "--message", "first")
    return tmp_path


def test_a_clean_checkout_is_its_commit(checkout: Path) -> None:
    commit, dirty = read_git_state(checkout)
    assert commit == git(checkout, "rev-parse", "HEAD")
    assert len(commit) == 40
    assert not dirty


def test_a_changed_file_makes_a_checkout_dirty(checkout: Path) -> None:
    (checkout / "tracked.txt").write_text("two\n")
    assert read_git_state(checkout) == (git(checkout, "rev-parse", "HEAD"), True)


def test_a_staged_file_makes_a_checkout_dirty(checkout: Path) -> None:
    (checkout / "new.txt").write_text("new\n")
    git(checkout, "add", "new.txt")
    assert read_git_state(checkout)[1]


def test_results_beside_the_tracked_files_do_not_make_it_dirty(checkout: Path) -> None:
    (checkout / "untracked.txt").write_text("results\n")
    assert not read_git_state(checkout)[1]


def test_a_folder_outside_any_checkout_has_no_commit(tmp_path: Path) -> None:
    assert read_git_state(tmp_path) == ("", False)


def test_a_repository_without_a_commit_has_none(tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet")
    assert read_git_state(tmp_path) == ("", False)


def test_without_git_there_is_no_commit(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert read_git_state(checkout) == ("", False)


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
