"""Renders corpora of duplex sessions: voices, rooms, drawn video, timelines with exact truth."""
