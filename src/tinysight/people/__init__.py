"""People against networks: answers of people and networks to the same images, compared."""
