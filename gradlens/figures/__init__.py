"""One file per figure: records in, a Matplotlib figure out. A figure draws and never computes."""
