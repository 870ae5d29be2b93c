"""Devices and processes: how a batch is divided among them, and how processes join and leave."""
