"""Reads speech from files and arrays; writes talking faces to video files."""
