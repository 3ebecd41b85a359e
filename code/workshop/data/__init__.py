"""Corpus, tokenizer and batches."""
