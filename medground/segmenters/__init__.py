"""What segmenter authors share: batched decoding, the embedding cache, reading weights."""
