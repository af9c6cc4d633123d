"""A single edit: settings, draws, requests to the prior, the decision and the splice. No torch, no datasets."""
