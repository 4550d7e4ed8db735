"""Rule tracks: follow every query through the video."""

from everypoint.stages import job, tracks


def listed(files: str | list[str]) -> list[str]:
    """Snakemake gives a single file of a list by itself."""
    return [files] if isinstance(files, str) else list(files)


runtime = snakemake.config["runtime"]
preset = dict(snakemake.params.preset)
for section, values in runtime["tracks"].get(snakemake.wildcards.preset, {}).items():
    preset[section] = {**preset[section], **values}
job.run(
    snakemake,
    tracks.run,
    frames=snakemake.input.frames,
    queries=snakemake.input.queries,
    **{name: listed(snakemake.input.get(name, [])) for name in ("flow", "rival")},
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
