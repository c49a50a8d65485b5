"""One namespace over several shards: transactions that span them, and the locks and messages of these."""
