"""Fine-tuning with TRL: arguments, batches, the trainer and the program."""
