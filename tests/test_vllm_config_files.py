"""vLLM's files are read strictly: what is wrong in them is named, what is right stays usable."""

import json
from pathlib import Path

import pytest

from kernels.moe.vllm_config_files import ConfigKey, Fault, parse_config_file, parse_file_name, read_config_file

NAME = "E=8,N=7168,device_name=NVIDIA_H200,dtype=fp8_w8a8.json"
BLOCK_NAME = "E=8,N=7168,device_name=NVIDIA_H200,dtype=fp8_w8a8,block_shape=[128,128].json"
GOOD = {
    "BLOCK_SIZE_M": 16,
    "BLOCK_SIZE_N": 64,
    "BLOCK_SIZE_K": 128,
    "GROUP_SIZE_M": 1,
    "num_warps": 4,
    "num_stages": 5,
}


def faults_of(content: object, name: str = NAME) -> list[tuple[str, str, str, str]]:
    text = content if isinstance(content, str) else json.dumps(content)
    faults = parse_config_file(Path(name), text).faults
    assert all(fault.file == Path(name) for fault in faults)
    return [(fault.batch_size, fault.name, fault.value, fault.limit) for fault in faults]


# Every form of a name that vLLM 0.26 ships.
@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("E=8,N=7168,device_name=NVIDIA_H200.json", ConfigKey(8, 7168, "NVIDIA_H200")),
        (NAME, ConfigKey(8, 7168, "NVIDIA_H200", "fp8_w8a8")),
        (BLOCK_NAME, ConfigKey(8, 7168, "NVIDIA_H200", "fp8_w8a8", (128, 128))),
        (
            "E=128,N=768,device_name=NVIDIA_A100-SXM4-80GB,block_shape=[128,128].json",
            ConfigKey(128, 768, "NVIDIA_A100-SXM4-80GB", None, (128, 128)),
        ),
        (
            "E=384,N=256,device_name=AMD_Instinct_MI350X,dtype=int4_w4a16,backend=flydsl.json",
            ConfigKey(384, 256, "AMD_Instinct_MI350X", "int4_w4a16", None, "flydsl"),
        ),
    ],
)
def test_a_name_says_what_the_file_is_for_and_is_spelt_back(name: str, key: ConfigKey) -> None:
    assert parse_file_name(name) == key
    assert key.file_name == name


@pytest.mark.parametrize(
    "name",
    ["README", "E=8,N=7168.json", "E=x,N=7168,device_name=A.json", f"{NAME}.bak", f"a{NAME}", f"{NAME[:-5]},x=1.json"],
)
def test_a_name_that_vllm_would_not_look_for_is_a_fault(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("{}")
    reading = read_config_file(tmp_path / name)
    assert reading.file is None
    [fault] = reading.faults
    assert fault.value == name


@pytest.mark.parametrize(
    "config",
    [
        GOOD,
        {**GOOD, "SPLIT_K": 1, "matrix_instr_nonkdim": 16},
        {**GOOD, "waves_per_eu": 0, "matrix_instr_nonkdim": 16, "kpack": 2},
        {**GOOD, "num_ctas": 1},
        {**GOOD, "BLOCK_SIZE_M": 8, "GROUP_SIZE_M": 3, "num_warps": 1, "num_stages": 1},
    ],
)
def test_every_form_of_an_entry_that_vllm_ships_is_read(config: dict[str, int], tmp_path: Path) -> None:
    (tmp_path / NAME).write_text(json.dumps({"triton_version": "3.6.0", "1": config, "4096": GOOD}))
    reading = read_config_file(tmp_path / NAME)
    assert reading.faults == ()
    assert reading.file
    assert reading.file.triton_version == "3.6.0"
    assert reading.file.configs == {1: config, 4096: GOOD}


def test_a_file_without_a_version_is_read() -> None:
    reading = parse_config_file(Path(NAME), json.dumps({"1": GOOD}))
    assert reading.file
    assert reading.file.triton_version is None
    assert not reading.faults


def test_an_entry_of_another_backend_has_names_of_its_own() -> None:
    name = "E=384,N=256,device_name=AMD_Instinct_MI350X,dtype=int4_w4a16,backend=flydsl.json"
    flydsl = {"tile_m": 16, "tile_n": 64, "tile_k": 128, "tile_n2": 256, "tile_k2": 64}
    assert faults_of({"1": flydsl}, name) == []
    assert {fault[1] for fault in faults_of({"1": GOOD}, name)} == set(GOOD)
    assert {fault[1] for fault in faults_of({"1": flydsl})} == set(flydsl)


@pytest.mark.parametrize(
    ("changes", "name", "value", "limit"),
    [
        ({"BLOCK_SIZE_M": 48}, "BLOCK_SIZE_M", "48", "must be a power of two from 1"),
        ({"BLOCK_SIZE_N": 0}, "BLOCK_SIZE_N", "0", "must be a power of two from 8"),
        ({"BLOCK_SIZE_K": -64}, "BLOCK_SIZE_K", "-64", "must be a power of two from 16"),
        ({"GROUP_SIZE_M": 0}, "GROUP_SIZE_M", "0", "must be at least 1"),
        ({"num_warps": 3}, "num_warps", "3", "must be a power of two from 1 to 32"),
        ({"num_warps": 64}, "num_warps", "64", "must be a power of two from 1 to 32"),
        ({"num_stages": 0}, "num_stages", "0", "must be at least 1"),
        ({"num_stages": "4"}, "num_stages", '"4"', "must be a whole number"),
        ({"num_stages": 4.0}, "num_stages", "4.0", "must be a whole number"),
        ({"num_stages": True}, "num_stages", "true", "must be a whole number"),
        ({"num_stages": None}, "num_stages", "null", "must be a whole number"),
        ({"BLOCK_SIZE": 16}, "BLOCK_SIZE", "16", "is not a name that vLLM's kernel knows"),
        (
            {"BLOCK_SIZE_M": 2048, "BLOCK_SIZE_N": 2048},
            "BLOCK_SIZE_M, N, K",
            "2048, 2048, 128",
            "no tile may have more than 1048576 elements",
        ),
    ],
)
def test_a_value_that_cannot_launch_is_named_and_the_other_entries_stay(
    changes: dict[str, object], name: str, value: str, limit: str
) -> None:
    content = {"1": GOOD, "16": {**GOOD, **changes}, "64": GOOD}
    assert faults_of(content) == [("16", name, value, limit)]
    reading = parse_config_file(Path(NAME), json.dumps(content))
    assert reading.file
    assert reading.file.configs == {1: GOOD, 64: GOOD}


def test_a_step_fits_the_blocks_of_the_weights() -> None:
    name = "E=8,N=7168,device_name=NVIDIA_H200,dtype=fp8_w8a8,block_shape=[96,96].json"
    for size in (64, 128, 256):  # those are shipped; vLLM's kernel takes at most 128
        assert faults_of({"1": {**GOOD, "BLOCK_SIZE_K": size}}, BLOCK_NAME) == []
    assert faults_of({"1": GOOD}, name) == [
        ("1", "BLOCK_SIZE_K", "128", "must be a multiple of block_k 96, or divide it")
    ]


def test_only_the_kernel_for_groups_chooses_blocks_itself() -> None:
    few = {"BLOCK_SIZE_M": 16, "SPLIT_K": 1}
    assert [fault[1] for fault in faults_of({"1": few})] == ["BLOCK_SIZE_N", "BLOCK_SIZE_K", "GROUP_SIZE_M"]
    assert faults_of({"1": few}, "E=8,N=7168,device_name=NVIDIA_H200,dtype=int8_w8a16.json") == []


@pytest.mark.parametrize("batch_size", ["", "0", "-1", "1.5", "016", "M", "१", "1_0", " 1"])
def test_a_batch_size_is_a_positive_whole_number(batch_size: str) -> None:
    [(place, _, value, limit)] = faults_of({"1": GOOD, batch_size: GOOD})
    assert (place, value) == (batch_size, json.dumps(batch_size))
    assert limit == "a batch size must be a positive whole number"


@pytest.mark.parametrize(
    "text",
    ["", "{", '{"1": {', "[" * 100_000, "\ufeff{}", f'{{"1": {{"num_warps": {"9" * 5000}}}}}', "not JSON", '{"1": }'],
)
def test_broken_json_is_a_fault_of_the_whole_file(text: str) -> None:
    [(batch_size, name, value, limit)] = faults_of(text)
    assert (batch_size, name, limit) == ("", "", "must be JSON in UTF-8")
    assert value
    assert "\n" not in value


@pytest.mark.parametrize("content", [[], "text", 3, None])
def test_what_is_no_object_is_a_fault(content: object) -> None:
    [fault] = faults_of(json.dumps(content))
    assert fault[2:] == (json.dumps(content), "must be an object that maps batch sizes to configurations")
    [fault] = faults_of({"1": content})
    assert fault[2:] == (json.dumps(content), "must be an object that maps names to whole numbers")


def test_an_empty_file_and_a_version_that_is_no_text_are_faults() -> None:
    assert faults_of({"triton_version": "3.6.0"}) == [("", "", "no batch size", "must have one at least")]
    assert faults_of({"triton_version": 3.6, "1": GOOD}) == [
        ("", "triton_version", "3.6", 'must be text such as "3.6.0"')
    ]


def test_what_is_given_twice_is_a_fault() -> None:
    good = json.dumps(GOOD)
    assert faults_of(f'{{"1": {good}, "1": {good}}}') == [("", "1", "given twice", "must be given once")]


def test_a_file_that_cannot_be_read_is_a_fault(tmp_path: Path) -> None:
    (tmp_path / BLOCK_NAME).mkdir()
    (tmp_path / NAME).write_bytes(b'{"1": "\xff"}')
    for name, limit in ((BLOCK_NAME, "must be a readable file"), (NAME, "must be JSON in UTF-8")):
        reading = read_config_file(tmp_path / name)
        assert reading.file is None
        assert [fault.limit for fault in reading.faults] == [limit]
    assert read_config_file(tmp_path / "E=1,N=1,device_name=A.json").faults[0].value == "No such file or directory"


def test_a_fault_is_one_line_with_file_batch_size_value_and_limit() -> None:
    fault = Fault(Path(NAME), "16", "num_warps", "3", "must be a power of two from 1 to 32")
    assert fault.line == f"{NAME}, batch size 16: num_warps=3 (must be a power of two from 1 to 32)"
    assert Fault(Path(NAME), "", "", "Is a directory", "must be a readable file").line.endswith(
        ": Is a directory (must be a readable file)"
    )
    long = faults_of({"1": {"x": "a" * 1000}})[0]
    assert len(long[2]) < 50
