"""What `tutelage up` does: keeps the platform's processes alive and shows what they do."""
