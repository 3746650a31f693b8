"""What turned out to be true, and the measures of business that follow from it."""
