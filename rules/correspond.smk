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
        gpu=plan.gpus,
    params:
        options=plan.flow_options,
        version=VERSIONS["flow"],
    script:
        "../scripts/flow.py"


rule features:
    input:
        frames="<results>/{video}/frames/frames.npy",
        meta="<results>/{video}/frames/video.json",
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
        gpu=plan.gpus,
    params:
        options=plan.features_options,
        version=VERSIONS["features"],
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
    conda:
        "../envs/torch.yaml"
    threads: 2
    resources:
        gpu=plan.gpus,
    params:
        options=plan.matches_options,
        seed=plan.config.seed,
        version=VERSIONS["matches"],
    script:
        "../scripts/matches.py"
