"""Bridges to other libraries, one subpackage each; import the one you need."""
