"""The command line: options, one workflow, what it prints. One file per command."""
