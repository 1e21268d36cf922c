"""The FAKE half of the dataset, made by named generators."""
