"""Rendered videos with exact ground truth: textured layers in space, a moving camera, true occlusion.

Use ``everypoint.scenes.presets.preset`` (named scenes), ``everypoint.scenes.render.render`` (frames) and
``everypoint.scenes.truth`` (``ground_truth``, ``flow``, ``annotations``).
"""
