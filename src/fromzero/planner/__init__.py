"""The planner: what a step will need on a card that is not here.

    a callable step -> trace -> memory, timing -> search

It knows a callable, a card and a recipe; no model and no data.
"""
