"""Rule features: one feature map a frame."""

from everypoint.stages import features, job

job.run(
    snakemake,
    features.run,
    frames=snakemake.input.frames,
    options=snakemake.params.options,
    output=snakemake.output.features,
    place=(snakemake.params.place or {}).get("path"),
    device=snakemake.config["runtime"]["device"],
    threads=snakemake.threads,
)
