"""Rule tracks: follow every query through the video."""

from everypoint.stages import job, tracks

runtime = snakemake.config["runtime"]
preset = dict(snakemake.params.preset)
for section, values in runtime["tracks"].get(snakemake.wildcards.preset, {}).items():
    preset[section] = {**preset[section], **values}
job.run(
    snakemake,
    tracks.run,
    frames=snakemake.input.frames,
    queries=snakemake.input.queries,
    flow=job.several(snakemake, "flow"),
    rival=job.several(snakemake, "rival"),
    features=snakemake.input.get("features"),
    model=snakemake.input.get("model"),
    preset=preset,
    name=snakemake.wildcards.preset,
    seed=snakemake.params.seed,
    output=snakemake.output.tracks,
    table=snakemake.output.table,
    device=runtime["device"],
    threads=snakemake.threads,
)
