def test_edits_real_text_and_gives_it_back(demo):
    from datasets import Dataset

    from hf_toedit import ToEditTransform, revert

    texts = [ToEditTransform.__doc__ or "", "The quick brown fox jumps over the lazy dog.", ""]
    ds = Dataset.from_dict({"text": texts})
    edited = ds.map(ToEditTransform(demo, threshold=0.5), batched=True)
    assert [revert(row)["text"] for row in edited] == texts
