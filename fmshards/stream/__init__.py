"""From shards to batches: order (pure functions), fetch, verify, window of compressed rows, decode, augment, batch."""
