"""What the callback meets in training: trainers and their batches."""
