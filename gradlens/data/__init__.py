"""Images and where they come from: decoding, sources, preprocessing, probe sets, the rendered vehicles."""
