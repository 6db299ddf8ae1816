"""Similar ECGs of other patients, for prompts."""
