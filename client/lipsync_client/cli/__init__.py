"""The command line: `lipsync`."""
