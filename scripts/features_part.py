"""Rule features_part: feature maps of some of the frames of a long video."""

from everypoint.stages import features, job

job.run(
    snakemake,
    features.run,
    frames=snakemake.input.frames,
    shard=snakemake.wildcards.shard,
    options=snakemake.params.options,
    output=snakemake.output.features,
    device=snakemake.config["runtime"]["device"],
    threads=snakemake.threads,
)
