"""Text to data: documents, what is held out, tokenizer and shards of token ids."""
