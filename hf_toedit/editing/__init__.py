"""One edit: settings, draws, what is asked of the prior, the decision, and the splice. No torch, no datasets."""
