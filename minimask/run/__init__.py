"""The long-running side: the training loop around a step, prediction on files, reports, what the commands do."""
