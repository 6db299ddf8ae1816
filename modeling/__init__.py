"""What travels inside a checkpoint: configurations, models, feature extractor and processor (Hub remote code)."""
