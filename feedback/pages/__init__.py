"""The pages where people talk and judge."""
