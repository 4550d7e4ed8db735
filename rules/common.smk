# The plan of this run and what several rules share.

from everypoint.stages.plan import CACHE, stage_versions
from everypoint.stages.report import partial as partial_report

plan = plan_or_sentence(config, ", ".join(CONFIG), cache=CACHE)
config["runtime"] = plan.runtime()


pathvars:
    results=plan.results,


wildcard_constraints:
    video=r"[A-Za-z0-9._][A-Za-z0-9._-]*",
    key=r"[a-z0-9-]+-[0-9a-f]{6}",
    shard=r"\d+of\d+",
    preset="|".join(plan.presets),
    format=r"[a-z-]+",


# What every job carries besides its options: raised when a stage would write something else, see everypoint/stages.
VERSIONS = stage_versions()


def gpus_of(count):
    """GPUs that a job asks for: as planned, but none on a machine without any, so that jobs go side by side."""

    def gpus(wildcards):
        planned = count(wildcards) if callable(count) else count
        here = workflow.local_exec and not workflow.dryrun
        return planned if not here or plan.may_find_gpu() else 0

    return gpus


def shots_of(video):
    """The entries of a video: itself, or its shots once the checkpoint has found them."""
    if not plan.is_split(video):
        return [video]
    return plan.shots(video, checkpoints.shots.get(video=video).output[0])


def products_of(video):
    """The input function for everything of one video that the report shows."""

    def products(wildcards):
        return plan.products(shots_of(video))

    return products


# No file: a dry run is known to be one only when inputs are asked for, and it then says what the run will take.
def said_before(wildcards):
    if workflow.dryrun:
        from everypoint.stages.estimate import estimate

        logger.info("\n".join(estimate(plan).lines))
    return []


def as_finished(inputs):
    """Inputs of a job that reads a model: a finished one is no product of a job unless this run asks for it."""
    settings = workflow.dag_settings
    asked = {*settings.targets, *settings.forcerun}
    model = inputs.get("weights")
    if model is None or settings.forceall or not training.keeps(model, asked):
        return inputs
    return inputs | {"weights": before_update(model)}
