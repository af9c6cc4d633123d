"""What a row is: formats, messages, templates, token ids, the `toedit` column, and undoing edits."""
