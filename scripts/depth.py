"""Rule depth: a depth prior of every frame."""

from everypoint.stages import depth, job

job.run(
    snakemake,
    depth.run,
    frames=snakemake.input.frames,
    options=snakemake.params.options,
    place=(snakemake.params.place or {}).get("path"),
    output=snakemake.output.depth,
    device=snakemake.config["runtime"]["device"],
    threads=snakemake.threads,
)
