"""Distributions fitted on the codes of a trained run, to draw new ones for its decoder."""

from aejax.samplers.sampler import FILE, SAMPLERS, Kind, Sampler, build, check_kind, fit, load, save

__all__ = ["FILE", "SAMPLERS", "Kind", "Sampler", "build", "check_kind", "fit", "load", "save"]
