"""A twin of vmnet.framework for Linux, in C, and what tests need to run on it."""
