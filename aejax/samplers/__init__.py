"""Distributions fitted to the codes of a trained run, which sample new codes for its decoder."""

from aejax.samplers.sampler import FILE, SAMPLERS, Kind, Sampler, build, check_kind, fit, load, save

__all__ = ["FILE", "SAMPLERS", "Kind", "Sampler", "build", "check_kind", "fit", "load", "save"]
