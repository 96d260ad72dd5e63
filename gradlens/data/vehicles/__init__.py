"""Rendered photographs of eight kinds of vehicles, with exact masks: the data that comes with gradlens.

draw (road, heavy, craft, parts)   the vehicles            canvas, glyphs   drawings and how they become pixels
scenery                            backgrounds and light   effects          what the internet does to a photograph
scenes                             factors, sampling, render
shifts                             the probe sets' changes to a scene
sets                               recipes, and image sets written to folders
"""
