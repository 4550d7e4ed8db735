# What people look at: overlays, measures, one page.


rule overlay:
    input:
        unpack(plan.overlay_inputs),
    output:
        overlay=report(
            "<results>/{video}/overlay/{preset}/overlay.mp4",
            caption="../report/overlay.rst",
            category="Overlays",
            labels={"video": "{video}", "preset": "{preset}", "kind": "tracks"},
        ),
        trails=report(
            "<results>/{video}/overlay/{preset}/trails.mp4",
            caption="../report/overlay.rst",
            category="Overlays",
            labels={"video": "{video}", "preset": "{preset}", "kind": "trails"},
        ),
    log:
        "<results>/{video}/logs/overlay.{preset}.log",
    benchmark:
        "<results>/{video}/logs/overlay.{preset}.jsonl"
    conda:
        "../envs/base.yaml"
    resources:
        mem_mb=plan.megabytes("overlay"),
        runtime=plan.minutes("overlay"),
    params:
        options=plan.overlay_options,
        version=VERSIONS["overlay"],
    script:
        "../scripts/overlay.py"


rule export:
    input:
        tracks="<results>/{video}/tracks/{preset}/tracks.npz",
    output:
        directory("<results>/{video}/export/{preset}/{format}"),
    log:
        "<results>/{video}/logs/export.{preset}.{format}.log",
    benchmark:
        "<results>/{video}/logs/export.{preset}.{format}.jsonl"
    localrule: True
    conda:
        "../envs/base.yaml"
    params:
        version=VERSIONS["export"],
    script:
        "../scripts/export.py"


rule evaluate:
    input:
        frames="<results>/{video}/frames/video.json",
        annotations="<results>/{video}/queries/annotations.npz",
        tracks="<results>/{video}/tracks/{preset}/tracks.npz",
    output:
        report(
            "<results>/{video}/evaluate/{preset}/metrics.json",
            caption="../report/metrics.rst",
            category="Metrics",
            labels={"video": "{video}", "preset": "{preset}"},
        ),
    log:
        "<results>/{video}/logs/evaluate.{preset}.log",
    benchmark:
        "<results>/{video}/logs/evaluate.{preset}.jsonl"
    localrule: True
    conda:
        "../envs/base.yaml"
    params:
        options=plan.sampling_options,
        version=VERSIONS["evaluate"],
    script:
        "../scripts/evaluate.py"


rule report:
    input:
        [products_of(video) for video in plan.videos],
    output:
        page=report(
            "<results>/report.html", caption="../report/report.rst", category="Report"
        ),
        metrics="<results>/metrics.csv",
        summary="<results>/report/summary.json",
    log:
        "<results>/report/report.log",
    benchmark:
        "<results>/report/report.jsonl"
    localrule: True
    conda:
        "../envs/base.yaml"
    params:
        presets=plan.report_presets(),
        options=plan.report_options(),
        version=VERSIONS["report"],
    script:
        "../scripts/report.py"


# With keep-going Snakemake does not make the report when a video failed, but people want one of the others. So it is
# made here, and summary.json, an output of the rule, is taken away: the rule runs again as soon as it can.
onerror:
    partial_report(plan)
