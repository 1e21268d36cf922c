"""The obvious other ways to serve, written as their documentation shows; benchmarks compare with them."""
