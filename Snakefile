# Track every point in a folder of videos.
#
#   snakemake                                   the folder named in workflow_config.yaml
#   snakemake -n                                what would be done, how long it takes and how much disk it needs
#   snakemake --configfile my.yaml --directory elsewhere

from everypoint.stages.driver import (
    check_yaml,
    default_config,
    hold_lock,
    make_results,
    plan_or_sentence,
)
from everypoint.stages.slurm_driver import outlive_outages
from snakemake.utils import min_version

min_version("9.27")

# The file given with --configfile, else that of the working directory, else that of this checkout; one of them alone.
CONFIG = [
    str(file)
    for file in workflow.overwrite_configfiles or [default_config(workflow.basedir)]
]
check_yaml(CONFIG)

if not workflow.overwrite_configfiles:

    configfile: CONFIG[0]


include: "rules/common.smk"
include: "rules/frames.smk"
include: "rules/correspond.smk"
include: "rules/track.smk"
include: "rules/report.smk"
include: "rules/pips.smk"


rule all:
    default_target: True
    input:
        said_before,
        "<results>/report.html",
        "<results>/report/summary.json",
        [products_of(video) for video in plan.videos],
    localrule: True


onstart:
    hold_lock(f"{CACHE}/run.lock")
    make_results(plan)
    outlive_outages()
