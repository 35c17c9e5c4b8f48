"""Imports the package before pytest collects a module of it alone, which would register its names twice."""

import byzgym  # noqa: F401
