# PIPs++'s own data, training and tests. Nothing here is part of the default target.
#
#   snakemake pips_export --config 'pips={export: {root: /data/pointodyssey}}'

from everypoint.stages.pips_export import VERSION as EXPORT_VERSION
from everypoint.stages.plan_pips import export_plan

clips = export_plan(plan.config)


pathvars:
    clips=clips.folder,


rule pips_index:
    output:
        "<clips>/index.json",
    log:
        "<clips>/logs/pips_index.log",
    benchmark:
        "<clips>/logs/pips_index.jsonl"
    localrule: True
    conda:
        "../envs/pips.yaml"
    params:
        options=clips.parameters(),
        seed=clips.seed,
        version=EXPORT_VERSION,
    script:
        "../scripts/pips_index.py"


rule pips_clips:
    # The clips themselves are no outputs: a job that is killed keeps those that are finished.
    input:
        index="<clips>/index.json",
    output:
        "<clips>/shards/{shard}.json",
    log:
        "<clips>/logs/pips_clips.{shard}.log",
    benchmark:
        "<clips>/logs/pips_clips.{shard}.jsonl"
    conda:
        "../envs/pips.yaml"
    script:
        "../scripts/pips_clips.py"


rule pips_export:
    input:
        expand("<clips>/shards/{shard}.json", shard=clips.shards),
    output:
        "<clips>/export.json",
    log:
        "<clips>/logs/pips_export.log",
    benchmark:
        "<clips>/logs/pips_export.jsonl"
    localrule: True
    conda:
        "../envs/pips.yaml"
    script:
        "../scripts/pips_export.py"
