"""Rule features: one feature map a frame, or the parts of several jobs joined."""

from everypoint.stages import features, job

job.run(
    snakemake,
    features.run,
    frames=snakemake.input.frames,
    parts=list(snakemake.input.get("parts", ())),
    options=snakemake.params.options,
    output=snakemake.output.features,
    place=(snakemake.params.place or {}).get("path"),
    device=snakemake.config["runtime"]["device"],
    threads=snakemake.threads,
)
