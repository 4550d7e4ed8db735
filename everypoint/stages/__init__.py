"""One module a rule of the workflow: ``run(...)`` opens files, calls the library and publishes files.

A module's ``VERSION`` is part of its jobs' parameters: raise it when the stage would now write something else, and
finished results are made again. Comments and refactorings leave it alone, and nothing is redone. Modules import torch
and the like inside ``run``, because the workflow reads every ``VERSION`` before it starts.
"""
