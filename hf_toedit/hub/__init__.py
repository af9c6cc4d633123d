"""Publishing: cards, licences, patches, and uploads to the Hub.

- what is known of edits: `source`, `records` (of rows), `record_file` (toedit.json), `training_edits` (of models)
- what may be done with the result: `licences`
- cards: `dataset_card` with its `tables` and `commands`, `model_card`, `eval_results`; they share `method`, `links`,
  `markdown` and `merging`, which keeps the owner's text
- edited rows as files: `folder` for this machine; `content`, `configs` and `shards` for the Hub
- filtered rows as files: `filtered`
- edits alone as files: `patches`, `patch_files`, `patch_rows`
- the Hub: `push` for all of a dataset, `space` for a report, `repository` for what is there, `uploads`, `failures`
"""
