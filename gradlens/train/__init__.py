"""Training: recipes, what is frozen, augmentation, and the loop."""
