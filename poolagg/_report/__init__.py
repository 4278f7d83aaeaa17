"""Watchers that turn the events of a run into text, pages, traces and progress bars."""
