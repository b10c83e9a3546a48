"""Sessions: keys, transcripts and the store that keeps them."""
