"""Speed, memory and how they grow: python -m experiments.benchmark"""
