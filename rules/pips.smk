# PIPs++'s own data, training and tests. Nothing here is part of the default target.
#
#   snakemake pips_export --config 'pips={export: {root: /data/pointodyssey}}'

from everypoint.stages.pips_export import VERSION as EXPORT_VERSION
from everypoint.stages.pips_test import VERSION as TEST_VERSION
from everypoint.stages.pips_train import VERSION as TRAIN_VERSION
from everypoint.stages.plan_pips import TESTS, export_plan, train_plan

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
    resources:
        mem_mb=clips.megabytes,
        runtime=clips.minutes,
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


training = train_plan(plan.config)
config["runtime"]["pips"] = training.runtimes()


pathvars:
    pips=training.folder,


wildcard_constraints:
    testset="|".join(TESTS),


rule pips_train:
    input:
        unpack(lambda wildcards: training.inputs("train")),
    output:
        training.model("train"),
    log:
        "<pips>/logs/pips_train.log",
    benchmark:
        "<pips>/logs/pips_train.jsonl"
    conda:
        "../envs/pips.yaml"
    threads: training.workers("train") + 1
    resources:
        gpu=gpus_of(plan.gpus * training.processes("train")),
        nodes=training.nodes("train"),
        mem_mb=training.megabytes("train"),
        runtime=training.minutes,
    params:
        options=training.parameters("train"),
        seed=plan.config.seed,
        version=TRAIN_VERSION,
    script:
        "../scripts/pips_train.py"


rule pips_finetune:
    input:
        unpack(lambda wildcards: as_finished(training.inputs("finetune"))),
    output:
        training.model("finetune"),
    log:
        "<pips>/logs/pips_finetune.log",
    benchmark:
        "<pips>/logs/pips_finetune.jsonl"
    conda:
        "../envs/pips.yaml"
    threads: training.workers("finetune") + 1
    resources:
        gpu=gpus_of(plan.gpus * training.processes("finetune")),
        nodes=training.nodes("finetune"),
        mem_mb=training.megabytes("finetune"),
        runtime=training.minutes,
    params:
        options=training.parameters("finetune"),
        seed=plan.config.seed,
        version=TRAIN_VERSION,
    script:
        "../scripts/pips_finetune.py"


rule pips_measure:
    input:
        unpack(lambda wildcards: as_finished(training.test_inputs())),
    output:
        "<pips>/test/{testset}.json",
    log:
        "<pips>/logs/pips_measure.{testset}.log",
    benchmark:
        "<pips>/logs/pips_measure.{testset}.jsonl"
    conda:
        "../envs/pips.yaml"
    threads: 4
    resources:
        gpu=gpus_of(plan.gpus),
        mem_mb=training.megabytes("measure"),
        runtime=training.minutes,
    params:
        options=lambda wildcards: training.test_parameters(wildcards.testset),
        version=TEST_VERSION,
    script:
        "../scripts/pips_measure.py"


rule pips_test:
    input:
        expand("<pips>/test/{testset}.json", testset=training.tests),
    output:
        summary="<pips>/test/summary.json",
        table="<pips>/test/summary.txt",
    log:
        "<pips>/logs/pips_test.log",
    benchmark:
        "<pips>/logs/pips_test.jsonl"
    localrule: True
    conda:
        "../envs/pips.yaml"
    script:
        "../scripts/pips_test.py"
