"""Text as speech: the synthesisers of this machine, and speech services over HTTP."""
