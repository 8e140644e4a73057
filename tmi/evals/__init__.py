"""Evaluation: sessions are streamed through the decoder, traces are scored, a report is written."""
