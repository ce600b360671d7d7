"""Who serves: starts and watches Triton, builds and packs models, measures speed. Needs the extra `server`."""
