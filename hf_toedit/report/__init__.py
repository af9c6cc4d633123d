"""What an edit did, for people and for programs: tables, marked edits, files."""
