"""Tuned configurations are written as vLLM writes and reads them, whole or not at all."""

import importlib.util
import json
import os
from pathlib import Path

import pytest

from kernels.moe.vllm_config_files import Config, ConfigFile, ConfigKey, read_config_file
from tasks.errors import TunedFileError
from tasks.tuning.files import format_config_file, list_config_files, sort_config, write_config_file

KEY = ConfigKey(8, 7168, "NVIDIA_H200", "fp8_w8a8")


def config_of(**changes: int) -> Config:
    blocks = {"BLOCK_SIZE_M": 16, "BLOCK_SIZE_N": 64, "BLOCK_SIZE_K": 128, "GROUP_SIZE_M": 1}
    return {**blocks, "num_warps": 4, "num_stages": 5, **changes}


def file_of(configs: dict[int, Config] | None = None, version: str | None = "3.6.0") -> ConfigFile:
    return ConfigFile(KEY, version, {1: config_of()} if configs is None else configs)


def test_a_file_is_spelt_as_vllms_tuner_spells_it(tmp_path: Path) -> None:
    shuffled = {"num_stages": 5, "num_warps": 4, "GROUP_SIZE_M": 1, "BLOCK_SIZE_K": 128} | config_of()
    path = write_config_file(tmp_path / "new" / "folder", file_of({16: shuffled, 1: {**shuffled, "SPLIT_K": 1}}))
    assert path == tmp_path / "new" / "folder" / "E=8,N=7168,device_name=NVIDIA_H200,dtype=fp8_w8a8.json"
    assert path.read_text() == (
        '{\n    "triton_version": "3.6.0",\n    "1": {\n        "BLOCK_SIZE_M": 16,\n        "BLOCK_SIZE_N": 64,\n'
        '        "BLOCK_SIZE_K": 128,\n        "GROUP_SIZE_M": 1,\n        "SPLIT_K": 1,\n        "num_warps": 4,\n'
        '        "num_stages": 5\n    },\n    "16": {\n        "BLOCK_SIZE_M": 16,\n        "BLOCK_SIZE_N": 64,\n'
        '        "BLOCK_SIZE_K": 128,\n        "GROUP_SIZE_M": 1,\n        "num_warps": 4,\n        "num_stages": 5\n'
        "    }\n}\n"
    )


def test_values_of_amd_gpus_come_last() -> None:
    rocm = {"kpack": 2, "matrix_instr_nonkdim": 16, "waves_per_eu": 0, **config_of()}
    assert list(sort_config(rocm))[6:] == ["waves_per_eu", "matrix_instr_nonkdim", "kpack"]


def test_what_was_written_is_read(tmp_path: Path) -> None:
    for version in ("3.6.0", None):
        file = file_of({size: config_of() for size in (4096, 1, 64)}, version)
        (tmp_path / file.key.file_name).unlink(missing_ok=True)
        reading = read_config_file(write_config_file(tmp_path, file))
        assert (reading.file, reading.faults) == (file, ())
    assert [found.file for found in list_config_files(tmp_path)] == [file]


def test_batch_sizes_that_were_not_tuned_stay(tmp_path: Path) -> None:
    write_config_file(tmp_path, file_of({1: config_of(), 64: config_of(), 4096: config_of()}, "3.5.0"))
    path = write_config_file(tmp_path, file_of({64: config_of(num_warps=8), 128: config_of(num_stages=2)}))
    merged = read_config_file(path).file
    assert merged == file_of(
        {1: config_of(), 64: config_of(num_warps=8), 128: config_of(num_stages=2), 4096: config_of()}
    )


@pytest.mark.parametrize("text", ["{", "[]", '{"1": {"BLOCK_SIZE_M": 16}}', '{"1": 3}', "{}"])
def test_a_file_that_is_broken_is_never_overwritten(text: str, tmp_path: Path) -> None:
    path = tmp_path / KEY.file_name
    path.write_text(text)
    with pytest.raises(TunedFileError, match=r"not overwritten: .*NVIDIA_H200.*correct or remove it"):
        write_config_file(tmp_path, file_of())
    assert path.read_text() == text
    assert list(tmp_path.iterdir()) == [path]


def test_what_vllm_could_not_use_is_not_written(tmp_path: Path) -> None:
    for configs in ({1: config_of(num_warps=3)}, {1: {**config_of(), "x": 1}}, {}, {0: config_of()}):
        with pytest.raises(TunedFileError, match=r"not written: .*vLLM could not use it"):
            write_config_file(tmp_path, file_of(configs))
    assert list(tmp_path.iterdir()) == []


def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_config_file(tmp_path, file_of())
    before = path.read_text()

    def fail(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(TunedFileError, match="No space left on device; give another --save-dir"):
        write_config_file(tmp_path, file_of({1: config_of(num_warps=8)}))
    assert path.read_text() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_is_none_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TunedFileError, match=r"cannot list .*nowhere: No such file"):
        list_config_files(tmp_path / "nowhere")
    with pytest.raises(TunedFileError, match="cannot write"):
        write_config_file(tmp_path / "file", file_of())


def test_files_of_a_folder_are_listed_whatever_is_wrong_with_them(tmp_path: Path) -> None:
    write_config_file(tmp_path, file_of())
    for name in ("README", "notes.json", "E=1,N=1,device_name=A.json"):
        (tmp_path / name).write_text("not JSON")
    found = list_config_files(tmp_path)
    assert [reading.path.name for reading in found] == ["E=1,N=1,device_name=A.json", KEY.file_name, "notes.json"]
    assert [len(reading.faults) for reading in found] == [1, 0, 1]


@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="needs vLLM, whose own reader is asked")
def test_vllm_reads_what_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vllm.model_executor.layers.fused_moe import fused_moe

    monkeypatch.setenv("VLLM_TUNED_CONFIG_FOLDER", str(tmp_path))
    for dtype, blocks in (("fp8_w8a8", None), ("fp8_w8a8", (128, 128)), (None, None), ("int8_w8a16", None)):
        name = fused_moe.get_config_file_name(3, 77, dtype, list(blocks) if blocks else None)
        device = name.split("device_name=")[1].split(",")[0].removesuffix(".json")
        file = ConfigFile(ConfigKey(3, 77, device, dtype, blocks), "3.6.0", {1: config_of(), 64: config_of()})
        assert write_config_file(tmp_path, file).name == name
        fused_moe.get_moe_configs.cache_clear()
        assert fused_moe.get_moe_configs(3, 77, dtype, *(blocks or ())) == file.configs


def test_the_text_is_json_that_ends_with_a_line(tmp_path: Path) -> None:
    text = format_config_file(file_of())
    assert text.endswith("}\n")
    assert list(json.loads(text)) == ["triton_version", "1"]
