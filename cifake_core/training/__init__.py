"""Topologies, fitting, tracking and export."""
