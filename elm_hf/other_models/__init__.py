"""Other models and programs on the same questions: models at an endpoint, and the LM Evaluation Harness."""
