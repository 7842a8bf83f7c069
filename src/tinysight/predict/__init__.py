"""Using a trained model: never imports data or train."""
