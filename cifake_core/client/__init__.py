"""What a person or a script calls: classify, explain, serve, status."""
