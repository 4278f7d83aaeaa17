"""Pools of other people: executors, and the engines of clusters."""
