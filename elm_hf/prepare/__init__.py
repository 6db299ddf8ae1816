"""Building datasets: from a source's recordings to records, conversations and folds."""
