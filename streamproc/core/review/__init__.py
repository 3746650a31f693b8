"""Review by people: cases, what people say about them, and what becomes of that."""
