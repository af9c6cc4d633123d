"""What an edit did, for people and programs: tables, marked edits, files."""
