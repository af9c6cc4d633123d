"""What the callback deals with in training: trainers and their batches."""
