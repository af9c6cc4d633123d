"""What is read from disk and the Hub, and written: datasets, text files, YAML; and what must never be written."""
