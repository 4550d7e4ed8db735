"""Every mistake in a configuration becomes one sentence that names the key and the cure."""

from __future__ import annotations

import pytest

from everypoint.config.load import checked, deep_merge, load_config, nearest, parse_config, part, read_yaml
from everypoint.config.options import Preset
from everypoint.config.user import Config
from everypoint.errors import ConfigError


def test_nothing_given_is_the_default():
    assert parse_config({}) == Config()


def test_values_arrive(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("methods: [chain]\nframes: {stride: 2, resize: [256, 256]}\nper_video: {a: {frames: {start: 3}}}\n")
    config = load_config(file)
    assert config.methods == ("chain",)
    assert (config.frames.stride, config.frames.resize) == (2, (256, 256))
    assert part(config, "frames", config.per_video["a"].frames, "").start == 3
    assert part(config, "frames", config.per_video["a"].frames, "").stride == 2


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ({"metods": ["chain"]}, "f.yaml: unknown key 'metods', did you mean 'methods'."),
        ({"methods": ["chan"]}, "f.yaml: unknown preset 'chan', did you mean 'chain'."),
        ({"methods": ["chain", "chain"]}, "f.yaml: methods is ['chain', 'chain'], but chain is listed twice."),
        ({"frames": {"strid": 2}}, "f.yaml: unknown key 'strid' under frames, did you mean 'stride'."),
        ({"frames": {"stride": 0}}, "f.yaml: frames.stride is 0, but input should be greater than 0."),
        ({"device": "gpu"}, "f.yaml: device is 'gpu', but input should be 'auto', 'cpu' or 'cuda'."),
        ({"overrides": {"cpuu": {}}}, "f.yaml: overrides has the unknown preset 'cpuu', did you mean 'cpu'."),
        (
            {"overrides": {"all": {"flow": {"pairs": {"plann": "window"}}}}},
            "f.yaml: overrides.all: unknown key 'plann' under flow.pairs, did you mean 'plan'.",
        ),
        (
            {"overrides": {"cpu": {"optimize": {"losses": {"flw": 1}}}}},
            "f.yaml: overrides.cpu: unknown key 'flw' under optimize.losses, did you mean 'flow'.",
        ),
        (
            {"per_video": {"clip": {"frames": {"strt": 1}}}},
            "f.yaml: per_video.clip.frames: unknown key 'strt', did you mean 'start'.",
        ),
        (
            {"per_video": {"clip": {"fram": {}}}},
            "f.yaml: unknown key 'fram' under per_video.clip, did you mean 'frames'.",
        ),
        ({"frames": 5}, "f.yaml: frames is 5, but it should be keys and values."),
        ({"per_video": {"clip": None}}, "f.yaml: per_video.clip is None, but it should be keys and values."),
        ({"overrides": {"all": [1]}}, "f.yaml: overrides.all is [1], but it should be keys and values."),
        ({"methods": "chain"}, "f.yaml: methods is 'chain', but it should be a list."),
        ({"methods": []}, "f.yaml: methods is [], but it should have at least 1 item."),
        (
            {"methods": [1, None]},
            "f.yaml: methods.0 is 1, but it should be text; methods.1 is None, but it should be text.",
        ),
        ({"frames": {"resize": [1, 2, 3]}}, "f.yaml: frames.resize is [1, 2, 3], but it should have at most 2 items."),
        ({2: 1}, "f.yaml: the key 2 should be text."),
        ({"overrides": {"all": {None: 5}}}, "f.yaml: the key None under overrides.all should be text."),
        (
            {"overrides": {"all": {"flow": {"backend": "none"}}}},
            "f.yaml: overrides.all: its tracks need flows: choose a flow.backend, or readout.fuse false to use the "
            "model alone.",
        ),
        ({"pips": {"train": {"stps": 3}}}, "f.yaml: pips.train: unknown key 'stps', did you mean 'steps'."),
        (
            {"pips": {"finetune": {"steps": 0}}},
            "f.yaml: pips.finetune: steps is 0, but input should be greater than 0.",
        ),
        (
            {"pips": {"train": {"processes": 3}}},
            "f.yaml: pips.train: batch 4 does not divide among 3 processes.",
        ),
        (
            {"seed": 2**63},
            "f.yaml: seed is 9223372036854775808, but input should be less than or equal to 9223372036854775807.",
        ),
        ({"evaluate": {"query_modes": []}}, "f.yaml: evaluate.query_modes is [], but it should have at least 1 item."),
        (
            {"evaluate": {"query_modes": ["first", "first"]}},
            "f.yaml: evaluate.query_modes is ['first', 'first'], but each mode is to be listed once.",
        ),
        (
            {"frames": {"cut_threshold": 7}},
            "f.yaml: frames.cut_threshold is 7, but input should be less than or equal to 1.",
        ),
    ],
)
def test_mistakes_are_one_sentence(value, sentence):
    with pytest.raises(ConfigError) as error:
        parse_config(value, "f.yaml")
    assert str(error.value) == sentence


def test_an_override_of_a_preset_that_is_not_run_is_checked_too():
    with pytest.raises(ConfigError, match="unknown key 'stepz'"):
        parse_config({"methods": ["chain"], "overrides": {"cpu": {"optimize": {"stepz": 3}}}})


def test_many_mistakes_stay_one_sentence():
    with pytest.raises(ConfigError) as error:
        parse_config({"a1": 1, "b1": 1, "c1": 1, "d1": 1, "e1": 1}, "f.yaml")
    assert str(error.value).endswith("; and 2 more.")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "part_of_sentence"),
    [
        ("methods: [chain\nseed: 1\n", "line 2, column 5 is not valid YAML"),
        ("seed: 1\nseed: 2\n", "key 'seed' is written twice"),
        ("- a\n- b\n", "does not consist of keys with values: it holds a list; write KEY: VALUE lines."),
        ("seed", "does not consist of keys with values: it holds the one value 'seed'"),
        ("seed: 1\n[a]: 2\n", "line 2, column 1 is not valid YAML: a list or mapping stands for a key"),
        ("{{a: 1}: 2}", "a list or mapping stands for a key"),
        ("methods: " + "[" * 3000 + "]" * 3000, "cannot be used: lists or mappings lie more than 50 deep"),
        ("methods: " + "[" * 200_000, "cannot be used: lists or mappings lie more than 50 deep"),
        ("overrides: &a {all: *a}", "lie more than 50 deep"),
        ("k0: &k0 {}\n" + "".join(f"k{n}: &k{n} {{a: *k{n - 1}}}\n" for n in range(1, 60)), "more than 50 deep"),
        ("seed: \x00", "is not valid YAML"),
    ],
)
def test_files_that_are_not_configurations(tmp_path, text, part_of_sentence):
    file = tmp_path / "c.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as error:
        read_yaml(file)
    assert part_of_sentence in str(error.value)
    assert "\n" not in str(error.value)


def test_aliases_of_many_places_are_looked_at_once(tmp_path):
    """Each level names the one before twice: 2^40 places."""
    lines = ["k0: &k0 [1]", *(f"k{n}: &k{n} [*k{n - 1}, *k{n - 1}]" for n in range(1, 41))]
    (tmp_path / "c.yaml").write_text("\n".join(lines))
    assert len(read_yaml(tmp_path / "c.yaml")) == 41


def test_ends_of_ranges_are_taken():
    config = parse_config({"seed": 2**63 - 1, "frames": {"cut_threshold": 0}})
    assert (config.seed, config.frames.cut_threshold) == (2**63 - 1, 0)
    assert parse_config({"frames": {"cut_threshold": 1}}).frames.cut_threshold == 1


def test_a_missing_file(tmp_path):
    with pytest.raises(ConfigError, match=r"no\.yaml cannot be read: No such file"):
        read_yaml(tmp_path / "no.yaml")


def test_an_empty_file_is_no_keys(tmp_path):
    (tmp_path / "c.yaml").write_text("# nothing\n")
    assert read_yaml(tmp_path / "c.yaml") == {}


def test_deep_merge_replaces_lists_and_keeps_its_arguments():
    base = {"a": {"b": 1, "c": [1, 2]}, "d": 4}
    changes = {"a": {"c": [3]}, "d": {"e": 5}}
    assert deep_merge(base, changes) == {"a": {"b": 1, "c": [3]}, "d": {"e": 5}}
    assert base == {"a": {"b": 1, "c": [1, 2]}, "d": 4}
    assert deep_merge(base, {}) == base


def test_nearest_lists_all_when_nothing_is_close():
    assert nearest("zzz", ["alpha", "beta"]) == "known are alpha, beta"
    assert nearest("alpa", ["alpha", "beta"]) == "did you mean 'alpha'"


def test_required_keys_are_named():
    with pytest.raises(ConfigError, match="preset x: tracker is missing"):
        checked(Preset, {"description": "d"}, "preset x")
