"""Your own classes from few images: a trained encoder's features and a last layer in one step."""
