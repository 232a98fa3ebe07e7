"""Client of the Tutelage platform."""
