"""Rule sparse: the matches of one sparse source."""

from everypoint.stages import job, sparse

job.run(
    snakemake,
    sparse.run,
    frames=snakemake.input.frames,
    source=snakemake.params.preset["sparse"]["sources"][0],
    preset=snakemake.params.preset,
    features=snakemake.input.get("features"),
    depth=snakemake.input.get("depth"),
    place=(snakemake.params.place or {}).get("path"),
    seed=snakemake.params.seed,
    output=snakemake.output.matches,
    statistics=snakemake.output.statistics,
    device=snakemake.config["runtime"]["device"],
    threads=snakemake.threads,
)
