"""Publishing: cards, licences, patches, and uploads to the Hub."""
