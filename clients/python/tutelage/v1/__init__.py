"""Generated from protos/tutelage/v1; `make proto` writes these files again."""
