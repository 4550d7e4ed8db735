"""Data of PIPs++: readers of PointOdyssey and CroHD, the augmentation chain, the export of clips and their reader.

Positions are (x, y) in index pixels throughout (the first pixel's centre is 0). Every random draw of a sample depends
on (seed, index, epoch) only.
"""
