"""Rule tracks: follow every query through the video."""

from everypoint.stages import job, tracks

flow = snakemake.input.get("flow", [])
job.run(
    snakemake,
    tracks.run,
    frames=snakemake.input.frames,
    queries=snakemake.input.queries,
    flow=[flow] if isinstance(flow, str) else list(flow),
    features=snakemake.input.get("features"),
    model=snakemake.input.get("model"),
    preset=snakemake.params.preset,
    name=snakemake.wildcards.preset,
    seed=snakemake.params.seed,
    output=snakemake.output.tracks,
    table=snakemake.output.table,
    device=snakemake.config["runtime"]["device"],
    threads=snakemake.threads,
)
