# From sources to frames and queries.


checkpoint shots:
    # Only for on_cut: split. One shot is one entry from here on.
    input:
        source=plan.whole_source,
    output:
        "<results>/{video}/shots/shots.json",
    log:
        "<results>/{video}/logs/shots.log",
    benchmark:
        "<results>/{video}/logs/shots.jsonl"
    conda:
        "../envs/base.yaml"
    resources:
        mem_mb=plan.megabytes("shots"),
        runtime=plan.minutes("shots"),
    params:
        entry=plan.entry,
        options=plan.frames_options,
        version=VERSIONS["shots"],
    script:
        "../scripts/shots.py"


rule frames:
    input:
        unpack(plan.source),
    output:
        frames="<results>/{video}/frames/frames.npy",
        meta="<results>/{video}/frames/video.json",
    log:
        "<results>/{video}/logs/frames.log",
    benchmark:
        "<results>/{video}/logs/frames.jsonl"
    conda:
        "../envs/base.yaml"
    resources:
        mem_mb=plan.megabytes("frames"),
        runtime=plan.minutes("frames"),
    params:
        entry=plan.entry,
        shot=plan.shot,
        options=plan.frames_options,
        version=VERSIONS["frames"],
    script:
        "../scripts/frames.py"


rule queries:
    input:
        unpack(plan.query_inputs),
    output:
        queries="<results>/{video}/queries/queries.npz",
        annotations="<results>/{video}/queries/annotations.npz",
        query_frames="<results>/{video}/queries/query_frames.json",
    log:
        "<results>/{video}/logs/queries.log",
    benchmark:
        "<results>/{video}/logs/queries.jsonl"
    localrule: True
    conda:
        "../envs/base.yaml"
    params:
        entry=plan.entry,
        shot=plan.shot,
        options=plan.query_options,
        evaluate=plan.sampling_options,
        version=VERSIONS["queries"],
    script:
        "../scripts/queries.py"
