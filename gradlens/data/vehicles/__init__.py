"""Rendered photographs of eight kinds of vehicles, with exact masks: the data that comes with gradlens.

canvas, glyphs              drawings as display lists, and how they become pixels; a stroke alphabet
parts, cars, cycles,        wheels and windows; the vehicles
  heavy, rail, craft
draw                        the eight classes: body styles, where each is at home
terrain, scenery, light     sky, trees, roads; the eight backgrounds; daylight
things, effects             what stands around and in front; what the internet does to a photograph
scenes                      factors, how they are sampled, and the pixels and mask they give
shifts                      the probe sets' changes to a scene
sets                        recipes, and image sets written to folders

Every stored image rests on these files: a change that moves pixels means rendering the probe sets and training anew.
"""
