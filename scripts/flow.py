"""Rule flow: optical flow of one shard."""

from everypoint.stages import flow, job

runtime = snakemake.config["runtime"]
job.run(
    snakemake,
    flow.run,
    frames=snakemake.input.frames,
    query_frames=snakemake.input.get("query_frames"),
    options={**snakemake.params.options, **runtime["flow"][snakemake.wildcards.key]},
    shard=snakemake.wildcards.shard,
    output=snakemake.output[0],
    place=(snakemake.params.place or {}).get("path"),
    device=runtime["device"],
    threads=snakemake.threads,
)
