"""From a checkpoint to a cohort of shards."""
