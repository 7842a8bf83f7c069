"""Studies: several trainings compared."""
