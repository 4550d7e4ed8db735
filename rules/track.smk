# From correspondences to tracks, one preset at a time.


rule optimize:
    input:
        unpack(plan.optimize_inputs),
    output:
        model="<results>/{video}/optimize/{preset}/model.pt",
        training="<results>/{video}/optimize/{preset}/train.jsonl",
    log:
        "<results>/{video}/logs/optimize.{preset}.log",
    benchmark:
        "<results>/{video}/logs/optimize.{preset}.jsonl"
    conda:
        "../envs/torch.yaml"
    threads: 1
    resources:
        gpu=gpus_of(plan.gpus),
        mem_mb=plan.megabytes("optimize"),
        runtime=plan.minutes("optimize"),
    params:
        preset=plan.optimize_options,
        seed=plan.config.seed,
        version=VERSIONS["optimize"],
    script:
        "../scripts/optimize.py"


rule tracks:
    input:
        unpack(plan.tracks_inputs),
    output:
        tracks=report(
            "<results>/{video}/tracks/{preset}/tracks.npz",
            caption="../report/tracks.rst",
            category="Tracks",
            labels={"video": "{video}", "preset": "{preset}"},
        ),
        table="<results>/{video}/tracks/{preset}/tracks.csv",
    log:
        "<results>/{video}/logs/tracks.{preset}.log",
    benchmark:
        "<results>/{video}/logs/tracks.{preset}.jsonl"
    conda:
        "../envs/torch.yaml"
    threads: 4
    resources:
        gpu=gpus_of(plan.gpus),
        mem_mb=plan.megabytes("tracks"),
        runtime=plan.minutes("tracks"),
    params:
        preset=plan.tracks_options,
        seed=plan.config.seed,
        version=VERSIONS["tracks"],
    script:
        "../scripts/tracks.py"
