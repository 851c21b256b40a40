"""Softnet: software networking for virtual machines that nobody should have to trust."""

__version__ = "0.1.0"
