# Track every point in a folder of videos.
#
#   snakemake                                   the folder named in workflow_config.yaml
#   snakemake -n                                what would be done
#   snakemake --configfile my.yaml --directory elsewhere

import os

from snakemake.utils import min_version

min_version("9.27")

# The file given with --configfile, else that of the working directory, else that of this checkout; one of them alone.
CONFIG = (
    "workflow_config.yaml"
    if os.path.exists("workflow_config.yaml")
    else f"{workflow.basedir}/workflow_config.yaml"
)
if workflow.overwrite_configfiles:
    CONFIG = ", ".join(map(str, workflow.overwrite_configfiles))
else:

    configfile: CONFIG


include: "rules/common.smk"
include: "rules/frames.smk"
include: "rules/correspond.smk"
include: "rules/track.smk"
include: "rules/report.smk"


rule all:
    default_target: True
    input:
        "<results>/report.html",
    localrule: True
