"""How a score flows back to the features: one rule per kind of step.

A detector's score runs down a list of steps (features, distance, pooling); its
explanation runs up the same list, each step by its own rule. ``_distance`` holds the
step from templates to features, ``_pooling`` the step from the score to templates,
``_template_pool`` runs both in one sweep.
"""
