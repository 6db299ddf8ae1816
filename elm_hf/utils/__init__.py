"""Files, the Hub, chat models and errors: what every room may use."""
