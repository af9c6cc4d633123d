"""What is measured, and the scripts that measure it. Not part of the package."""
