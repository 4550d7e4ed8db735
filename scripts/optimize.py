"""Rule optimize: fit one motion model to a video's matches."""

from everypoint.stages import job, optimize

runtime = snakemake.config["runtime"]
preset = dict(snakemake.params.preset)
preset["optimize"] = {**preset["optimize"], **runtime["optimize"][snakemake.wildcards.preset]}
for section, values in runtime["models"].get(snakemake.wildcards.preset, {}).items():
    preset["model"] = {**preset["model"], section: {**preset["model"][section], **values}}
job.run(
    snakemake,
    optimize.run,
    matches=snakemake.input.matches,
    frames=snakemake.input.frames,
    depth=snakemake.input.get("depth"),
    preset=preset,
    seed=snakemake.params.seed,
    output=snakemake.output.model,
    device=runtime["device"],
    threads=snakemake.threads,
)
