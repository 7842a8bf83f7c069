"""Looking at data and runs."""
