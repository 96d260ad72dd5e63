"""Models and where they come from: builders, checkpoint folders, cards, what a model costs."""
