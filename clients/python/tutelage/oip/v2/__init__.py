"""Generated from protos/tutelage/oip/v2; `make proto` writes these files again."""
