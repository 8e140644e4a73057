"""Media to numbers and back: audio, video, text."""
