"""What the callback deals with in training: trainers, their batches and their model cards."""
