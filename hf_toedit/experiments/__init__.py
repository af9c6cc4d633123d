"""Recipes, their stages, and what their results say."""
