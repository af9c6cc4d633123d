"""Measurements of texts: how likely a prior finds them, how diverse they are, what an edit did to them.

documents: rows in any format, and their scores. measurement: what all measurements share.
"""
