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
    params:
        options=plan.flow_options,
        version=VERSIONS["flow"],
    threads: 4
    resources:
        gpu=plan.gpus,
    conda:
        "../envs/torch.yaml"
    script:
        "../scripts/flow.py"


rule features:
    input:
        frames="<results>/{video}/frames/frames.npy",
        meta="<results>/{video}/frames/video.json",
    output:
        "<results>/{video}/features/{key}/features.npy",
    log:
        "<results>/{video}/logs/features.{key}.log",
    benchmark:
        "<results>/{video}/logs/features.{key}.jsonl"
    params:
        options=plan.features_options,
        version=VERSIONS["features"],
    threads: 2
    resources:
        gpu=plan.gpus,
    conda:
        "../envs/torch.yaml"
    script:
        "../scripts/features.py"


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
    params:
        options=plan.matches_options,
        seed=plan.config.seed,
        version=VERSIONS["matches"],
    threads: 2
    resources:
        gpu=plan.gpus,
    conda:
        "../envs/torch.yaml"
    script:
        "../scripts/matches.py"
