"""A stage depends on the options that shape its result and on no other; presets that agree share it."""

from __future__ import annotations

import pytest

from everypoint.config.options import Preset
from everypoint.config.presets import load_preset
from everypoint.stages import relevant

RAFT = load_preset("chain")
DIS = load_preset("chain", {"all": {"flow": {"backend": "dis"}}})


def changed(preset: Preset, **parts) -> Preset:
    return load_preset("cpu" if preset.tracker == "optimize" else preset.tracker, {"all": parts})


@pytest.mark.parametrize("other", ["chain-multi", "cpu", "fast"])
def test_the_first_presets_share_their_flows(other):
    assert relevant.flow_key(load_preset(other).flow) == relevant.flow_key(RAFT.flow)


@pytest.mark.parametrize(
    ("name", "flow", "count"),
    [
        ("cpu", {"rival": "raft-sintel"}, 2),
        ("cpu", {"rival": None}, 1),
        ("cpu", {"backend": "dis", "rival": "raft-sintel"}, 1),
        ("chain-multi", {"rival": "raft-sintel"}, 2),
        ("chain", {"rival": "raft-sintel"}, 1),  # reads neighbouring frames only
        ("omnimotion", {"rival": "raft-sintel"}, 1),  # its model is read out alone
    ],
)
def test_which_presets_have_a_rival(name, flow, count):
    preset = load_preset(name, {"all": {"flow": flow}})
    found = relevant.flows(preset)
    assert found[0] == preset.flow
    assert len(found) == count
    assert relevant.reported(preset)["flow"].get("rival") == (flow["rival"] if count == 2 else None)


def test_a_rival_differs_by_its_weights_and_gaps():
    own, rival = relevant.flows(load_preset("cpu", {"cpu": {"flow": {"rival": "raft-small", "rival_gap": 5}}}))
    assert (rival.weights, rival.rival, rival.pairs.shortest, own.pairs.shortest) == ("raft-small", None, 5, 1)
    assert rival.model_dump(exclude={"weights", "rival", "pairs"}) == own.model_dump(
        exclude={"weights", "rival", "pairs"}
    )
    assert relevant.flow_key(rival) != relevant.flow_key(own)


def test_a_rivals_frames_may_be_enlarged_further():
    asked = {"flow": {"rival": "raft-small", "rival_upsample_below": 720}}
    own, rival = relevant.flows(load_preset("cpu", {"cpu": asked}))
    assert (own.upsample_below, rival.upsample_below) == (None, 720)
    asked["flow"] = {"rival": "raft-small", "upsample_below": 480}
    assert [options.upsample_below for options in relevant.flows(load_preset("cpu", {"cpu": asked}))] == [480, 480]
    plain = load_preset("cpu", {"cpu": {"flow": {"rival": None, "rival_upsample_below": 720}}})
    assert [relevant.flow_key(options) for options in relevant.flows(plain)] == [relevant.flow_key(own)]


def test_multi_and_cpu_share_their_features():
    first, second = (load_preset(name).features for name in ("chain-multi", "cpu"))
    assert relevant.features_key(first) == relevant.features_key(second)


@pytest.mark.parametrize(
    ("flow", "same"),
    [
        ({"batch": 9}, True),  # memory only
        ({"shards": 3}, True),  # jobs only
        ({"quality": "fast"}, True),  # of dis
        ({"lookup": "sampled", "volume_gib": 1, "compile": True}, True),  # memory and speed only
        ({"folder": "old"}, True),  # of processed
        ({"iterations": 3}, False),
        ({"warm_start": True}, False),
        ({"precision": "bfloat16"}, False),
        ({"weights": "raft-small"}, False),
        ({"resolution": 200}, False),
        ({"pairs": {"window": 3}}, True),  # of the plan window
        ({"pairs": {"plan": "window"}}, False),
        ({"pairs": {"intervals": [1, 2]}}, False),
        ({"pairs": {"direct": True}}, False),
        ({"pairs": {"shortest": 2}}, False),
        ({"rival": "raft-small", "rival_gap": 2}, True),  # has flows of its own
    ],
)
def test_what_the_flows_of_raft_depend_on(flow, same):
    assert (relevant.flow_key(changed(RAFT, flow=flow).flow) == relevant.flow_key(RAFT.flow)) == same


@pytest.mark.parametrize(("flow", "same"), [({"quality": "fast"}, False), ({"iterations": 3}, True)])
def test_what_the_flows_of_dis_depend_on(flow, same):
    assert (
        relevant.flow_key(changed(DIS, flow={"backend": "dis", **flow}).flow) == relevant.flow_key(DIS.flow)
    ) == same


def test_a_key_is_the_backend_and_six_hex_digits():
    assert relevant.flow_key(DIS.flow).startswith("dis-")
    assert len(relevant.flow_key(DIS.flow)) == len("dis-") + 6


@pytest.mark.parametrize(
    ("part", "same"),
    [
        ({"matches": {"per_pair": 5}}, False),
        ({"features": {"backend": "none"}}, False),
        ({"flow": {"iterations": 3}}, False),
        ({"flow": {"batch": 3}}, True),
        ({"readout": {"occlusion_depth": 0.5}}, True),
        ({"optimize": {"steps": 7}}, True),
        ({"matches": {"chain": True}}, False),
        ({"matches": {"chain_colour": 0.1}}, True),  # of the chain, which is off
        ({"matches": {"stored_masks": False}}, True),  # of flows that were read
        ({"matches": {"depth_mask": False}}, True),  # of a depth prior, of which there is none
        ({"depth": {"backend": "constant"}}, False),
        ({"depth": {"backend": "constant"}, "matches": {"depth_mask": False}}, True),  # a prior that masks nothing
        ({"depth": {"value": 3}}, True),
        ({"sparse": {"sources": ["xfeat"]}}, False),
        ({"sparse": {"xfeat": {"points": 7}}}, True),
        ({"sparse": {"appearance_threshold": 0.1}}, True),  # of sparse rows, of which there are none
        ({"cotracker": {"grid": 9}}, True),
    ],
)
def test_what_matches_depend_on(part, same):
    cpu = load_preset("cpu")
    assert (relevant.matches_key(changed(cpu, **part)) == relevant.matches_key(cpu)) == same


SPARSE = {"sparse": {"sources": ["mutual", "xfeat", "cotracker"]}, "depth": {"backend": "constant"}}


@pytest.mark.parametrize(
    ("source", "part", "same"),
    [
        ("xfeat", {"sparse": {"xfeat": {"points": 7}}}, False),
        ("xfeat", {"sparse": {"mutual": {"gap": 3}}}, True),
        ("xfeat", {"sparse": {"per_pair": 3}}, False),
        ("xfeat", {"depth": {"value": 3}}, True),
        ("xfeat", {"flow": {"iterations": 3}}, True),
        ("mutual", {"sparse": {"mutual": {"gap": 3}}}, False),
        ("mutual", {"sparse": {"mutual": {"features": {"short_side": 3}}}}, True),  # of the other way to resize
        ("mutual", {"sparse": {"mutual": {"features": {"resize": "omnimotion"}}}}, False),
        ("cotracker", {"matches": {"budget_mb": 9}}, False),
        ("xfeat", {"matches": {"budget_mb": 9}}, True),
        ("mutual", {"sparse": {"mutual": {"features": {"folder": "x"}}}}, True),  # of processed
        ("mutual", {"depth": {"value": 3}}, False),
        ("mutual", {"features": {"backend": "none"}}, True),
        ("cotracker", {"cotracker": {"grid": 9}}, False),
        ("cotracker", {"sparse": {"xfeat": {"points": 7}}}, True),
    ],
)
def test_what_a_sparse_source_depends_on(source, part, same):
    first = load_preset("cpu", {"all": SPARSE})
    second = load_preset("cpu", {"all": SPARSE, "cpu": part})
    assert (relevant.sparse_key(first, source) == relevant.sparse_key(second, source)) == same
    assert Preset.model_validate(relevant.sparse(second, source)).sparse.sources == (source,)


def test_a_default_weight_file_is_the_same_as_its_name():
    named = load_preset("cpu", {"all": {"features": {"weights": "raft-things"}}})
    assert relevant.features_key(named.features) == relevant.features_key(load_preset("cpu").features)


@pytest.mark.parametrize(
    ("part", "same"),
    [
        ({"readout": {"refine_rounds": 0}}, False),
        ({"readout": {"agreement": 1}}, False),
        ({"model": {"blocks": 2}}, True),
    ],
)
def test_the_walk_depends_on_its_refinement(part, same):
    plain = load_preset("chain-multi")
    assert (relevant.tracks(load_preset("chain-multi", {"all": part})) == relevant.tracks(plain)) == same


@pytest.mark.parametrize(
    ("part", "same"),
    [
        ({"optimize": {"steps": 7}}, False),
        ({"optimize": {"losses": {"depth": 0.7}}}, False),
        ({"model": {"blocks": 2}}, False),
        ({"optimize": {"checkpoint_seconds": 3}}, True),
        ({"optimize": {"log_every": 3}}, True),
        ({"optimize": {"pictures": 0.5}}, True),
        ({"optimize": {"capture": "never", "compile": "never"}}, True),
        ({"optimize": {"matmul": "tf32"}}, False),
        ({"optimize": {"rays": {"pairs": 2}}}, True),  # of other kinds of model
        ({"model": {"nvp": {"hidden": 8}}}, True),
        ({"readout": {"occlusion_depth": 0.5}}, True),
    ],
)
def test_what_a_model_depends_on_besides_its_matches(part, same):
    cpu = load_preset("cpu")
    assert (relevant.optimize(changed(cpu, **part)) == relevant.optimize(cpu)) == same


@pytest.mark.parametrize(
    ("part", "same"),
    [
        ({"model": {"nvp": {"hidden": 8}}}, False),
        ({"model": {"field": {"samples": 8}}}, False),
        ({"model": {"plane_channels": 8}}, True),
        ({"optimize": {"rays": {"pairs": 2}}}, False),
        ({"optimize": {"ray_losses": {"colour": 0}}}, False),
        ({"optimize": {"sampler": {"batch": 8}}}, True),
        ({"optimize": {"losses": {"depth": 8}}}, True),
        ({"optimize": {"decay": "cosine"}}, False),
    ],
)
def test_what_a_model_of_rays_depends_on(part, same):
    plain = load_preset("omnimotion")
    assert (relevant.optimize(load_preset("omnimotion", {"all": part})) == relevant.optimize(plain)) == same


def test_with_an_early_stop_the_rows_of_the_log_count():
    def of(rows):
        return relevant.optimize(load_preset("cpu", {"all": {"optimize": {"early_stop": 3, "log_every": rows}}}))

    assert of(5) != of(6)


@pytest.mark.parametrize(
    ("name", "part", "same"),
    [
        ("chain", {"chain": {"cycle_threshold": 1}}, False),
        ("chain", {"chain": {"intervals": [1, 2]}}, True),  # plain chaining knows gap 1 only
        ("chain", {"features": {"backend": "none"}}, True),
        ("chain-multi", {"chain": {"intervals": [1, 2]}}, False),
        ("chain-multi", {"optimize": {"steps": 7}}, True),
        ("cpu", {"readout": {"occlusion_depth": 0.5}}, False),
        ("cpu", {"optimize": {"checkpoint_seconds": 3}}, True),
        ("cpu", {"optimize": {"matmul": "tf32"}}, False),  # a model is read out as it was trained
        ("chain-multi", {"optimize": {"matmul": "tf32"}}, True),
    ],
)
def test_what_tracks_depend_on_besides_their_files(name, part, same):
    assert (relevant.tracks(load_preset(name, {"all": part})) == relevant.tracks(load_preset(name))) == same


@pytest.mark.parametrize("name", ["chain", "chain-multi", "cpu"])
def test_parts_are_presets_of_the_same_kind(name):
    preset = load_preset(name)
    assert Preset.model_validate(relevant.tracks(preset)).tracker == preset.tracker
    assert Preset.model_validate(relevant.optimize(preset)).optimize.steps == preset.optimize.steps


def test_what_no_result_depends_on_reaches_the_jobs_another_way():
    overrides = {"all": {"flow": {"batch": 5}}, "cpu": {"optimize": {"checkpoint_seconds": 3}}}
    presets = {name: load_preset(name, overrides) for name in ("chain", "cpu")}
    runtime = relevant.runtime(presets)
    knobs = {"batch": 5, "lookup": "auto", "volume_gib": 4.0, "compile": False}
    own, rival = relevant.flows(presets["cpu"])
    assert runtime["flow"] == {relevant.flow_key(own): knobs, relevant.flow_key(rival): knobs}
    assert runtime["tracks"] == {}
    assert relevant.runtime({"pips2": load_preset("pips2")})["tracks"] == {"pips2": {"pips": {"memory_gib": 1.0}}}
    assert runtime["optimize"]["cpu"]["checkpoint_seconds"] == 3


def test_the_kernel_of_cadex_redoes_no_model_and_reaches_its_job():
    plain = load_preset("cadex")
    chosen = load_preset("cadex", {"all": {"model": {"cadex": {"kernel": "triton"}}}})
    other = load_preset("cadex", {"all": {"model": {"cadex": {"guard": 0.1}}}})
    assert relevant.optimize(chosen) == relevant.optimize(plain) != relevant.optimize(other)
    runtime = relevant.runtime({"cadex": chosen, "chain": load_preset("chain")})
    assert runtime["models"] == {"cadex": {"cadex": {"kernel": "triton"}}}


@pytest.mark.parametrize(
    ("name", "counts"), [("cadex", True), ("omnimotion-depth", True), ("omnimotion", False), ("cpu", False)]
)
def test_motion_before_a_prior_counts_where_a_model_starts_from_one(name, counts):
    changed = load_preset(name, {"all": {"model": {"motion_nearer": 0.1}}})
    assert (relevant.optimize(changed) != relevant.optimize(load_preset(name))) == counts


@pytest.mark.parametrize("names", [("fast", "chain-multi"), ("chain-multi", "fast")])
def test_shared_flows_are_computed_in_the_largest_batches(names):
    presets = {name: load_preset(name) for name in names}
    key = relevant.flow_key(presets["fast"].flow)
    assert relevant.runtime(presets)["flow"][key]["batch"] == presets["fast"].flow.batch > 1
