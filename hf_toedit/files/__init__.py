"""Reading from disk and the Hub, and writing: datasets, text files, YAML; and secrets, which are never written."""
