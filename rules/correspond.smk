# Correspondences: stages that presets with equal options share.


rule flow:
    input:
        unpack(plan.flow_inputs),
    output:
        directory("<results>/{video}/flow/{key}/{shard}"),
    log:
        "<results>/{video}/logs/flow.{key}.{shard}.log",
    benchmark:
        "<results>/{video}/logs/flow.{key}.{shard}.jsonl"
    conda:
        "../envs/torch.yaml"
    threads: 4
    resources:
        gpu=gpus_of(plan.gpus),
        mem_mb=plan.megabytes("flow"),
        runtime=plan.minutes("flow"),
    params:
        options=plan.flow_options,
        place=plan.flow_place,
        version=VERSIONS["flow"],
    script:
        "../scripts/flow.py"


rule features_part:
    # Only of long videos, see jobs.minutes: their parts are joined by the rule features.
    input:
        frames="<results>/{video}/frames/frames.npy",
        meta="<results>/{video}/frames/video.json",
    output:
        features=temp("<results>/{video}/features/{key}/{shard}/features.npy"),
        meta=temp("<results>/{video}/features/{key}/{shard}/features.json"),
    log:
        "<results>/{video}/logs/features_part.{key}.{shard}.log",
    benchmark:
        "<results>/{video}/logs/features_part.{key}.{shard}.jsonl"
    conda:
        "../envs/torch.yaml"
    threads: 2
    resources:
        gpu=gpus_of(plan.gpus),
        mem_mb=plan.megabytes("features"),
        runtime=plan.minutes("features"),
    params:
        options=plan.features_options,
        version=VERSIONS["features"],
    script:
        "../scripts/features_part.py"


rule features:
    input:
        unpack(plan.features_inputs),
    output:
        features="<results>/{video}/features/{key}/features.npy",
        meta="<results>/{video}/features/{key}/features.json",
    log:
        "<results>/{video}/logs/features.{key}.log",
    benchmark:
        "<results>/{video}/logs/features.{key}.jsonl"
    conda:
        "../envs/torch.yaml"
    threads: 2
    resources:
        gpu=gpus_of(plan.features_gpus),
        mem_mb=plan.megabytes("features"),
        runtime=plan.minutes("features"),
    params:
        options=plan.features_options,
        place=plan.features_place,
        version=VERSIONS["features"],
    script:
        "../scripts/features.py"


rule depth:
    input:
        frames="<results>/{video}/frames/frames.npy",
        meta="<results>/{video}/frames/video.json",
    output:
        depth="<results>/{video}/depth/{key}/depth.npy",
        mask="<results>/{video}/depth/{key}/depth.mask.npy",
        meta="<results>/{video}/depth/{key}/depth.json",
    log:
        "<results>/{video}/logs/depth.{key}.log",
    benchmark:
        "<results>/{video}/logs/depth.{key}.jsonl"
    conda:
        "../envs/torch.yaml"
    threads: 2
    resources:
        gpu=gpus_of(plan.gpus),
        mem_mb=plan.megabytes("depth"),
        runtime=plan.minutes("depth"),
    params:
        options=plan.depth_options,
        place=plan.depth_place,
        version=VERSIONS["depth"],
    script:
        "../scripts/depth.py"


rule sparse:
    input:
        unpack(plan.sparse_inputs),
    output:
        matches="<results>/{video}/sparse/{key}/matches.npz",
        statistics="<results>/{video}/sparse/{key}/sparse.json",
    log:
        "<results>/{video}/logs/sparse.{key}.log",
    benchmark:
        "<results>/{video}/logs/sparse.{key}.jsonl"
    conda:
        "../envs/torch.yaml"
    threads: 2
    resources:
        gpu=gpus_of(plan.gpus),
        mem_mb=plan.megabytes("sparse"),
        runtime=plan.minutes("sparse"),
    params:
        preset=plan.sparse_options,
        place=plan.sparse_place,
        seed=plan.config.seed,
        version=VERSIONS["sparse"],
    script:
        "../scripts/sparse.py"


rule matches:
    input:
        unpack(plan.matches_inputs),
    output:
        matches="<results>/{video}/matches/{key}/matches.npz",
        statistics="<results>/{video}/matches/{key}/filter.json",
    log:
        "<results>/{video}/logs/matches.{key}.log",
    benchmark:
        "<results>/{video}/logs/matches.{key}.jsonl"
    conda:
        "../envs/torch.yaml"
    threads: 2
    resources:
        gpu=gpus_of(plan.gpus),
        mem_mb=plan.megabytes("matches"),
        runtime=plan.minutes("matches"),
    params:
        options=plan.matches_options,
        seed=plan.config.seed,
        version=VERSIONS["matches"],
    script:
        "../scripts/matches.py"
