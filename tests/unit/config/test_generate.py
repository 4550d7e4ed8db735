"""The default file, the schema and the reference say what the models say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from everypoint.config import generate
from everypoint.config.load import parse_config
from everypoint.config.options import Preset
from everypoint.config.user import Config

ROOT = Path(__file__).resolve().parents[3]


def test_generated_files_have_not_drifted():
    difference = generate.drift(ROOT)
    assert not difference, f"{difference}\nrun: {generate.CURE}"


def test_drift_shows_a_diff(tmp_path):
    for name, make in generate.FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(make())
    assert generate.drift(tmp_path) == ""
    file = tmp_path / "workflow_config.yaml"
    file.write_text(file.read_text().replace("stride: 1", "stride: 7"))
    assert "-  stride: 7\n+  stride: 1\n" in generate.drift(tmp_path)
    assert list(generate.stale(tmp_path)) == ["workflow_config.yaml"]


def test_the_default_file_is_the_defaults():
    assert parse_config(yaml.safe_load(generate.default_yaml())) == Config()


def test_every_key_has_its_description_above_it():
    lines = generate.default_yaml().splitlines()
    keys = [number for number, line in enumerate(lines) if line and not line.lstrip().startswith("#")]
    assert len(keys) > 25
    assert all(lines[number - 1].lstrip().startswith("# ") for number in keys)


@pytest.mark.parametrize("word", ["off", "no", "null", "1e3", "a: b", "x-y", "", " "])
def test_text_reads_back_as_itself(word):
    assert yaml.safe_load(generate._scalar(word)) == word


def test_no_option_is_a_word_that_yaml_takes_for_a_truth_value():
    """``mask: off`` would arrive as False."""
    schemas = [Config.model_json_schema(), Preset.model_json_schema()]
    words = {word for schema in schemas for word in _enumerated(schema)}
    assert {"auto", "strided", "raft"} <= words
    assert all(yaml.safe_load(word) == word for word in words)


def _enumerated(schema: object) -> set[str]:
    if isinstance(schema, dict):
        own = set(schema.get("enum", [])) | ({schema["const"]} if "const" in schema else set())
        return own.union(*(_enumerated(value) for value in schema.values()))
    return set().union(*map(_enumerated, schema)) if isinstance(schema, list) else set()


def test_the_reference_names_every_key_and_preset():
    text = generate.reference_markdown()
    for key in ("`frames.max_side`", "`flow.pairs.plan`", "`optimize.sampler.batch`", "### `chain-multi`"):
        assert key in text


def test_the_schema_describes_overrides():
    schema = json.loads(generate.schema_json())
    assert schema["additionalProperties"] is False
    assert schema["properties"]["overrides"]["additionalProperties"] == {"$ref": "#/$defs/Preset"}
    assert "tracker" in schema["$defs"]["Preset"]["properties"]
    assert schema["$defs"]["Preset"]["required"] == []


def test_dumped_keys_read_back():
    keys = {"videos": "a: b #c", "methods": ["chain"], "frames": {"resize": [256, 256]}}
    assert yaml.safe_load(generate.dump_yaml(keys)) == keys
