"""Building datasets: from the recordings of a source to records, conversations and folds."""
