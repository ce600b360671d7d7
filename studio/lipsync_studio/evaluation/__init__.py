"""Evaluation of an avatar: metrics of its lips against speech, and of its pictures. See docs/evaluation.md."""
