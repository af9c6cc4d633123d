"""Recipes, their stages, and their results."""
