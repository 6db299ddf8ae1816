"""Models for others to use: a web demo, and a server with OpenAI's interface."""
