"""Many rows: the units of an edit, the processes and machines that work on them, and what survives a kill."""
