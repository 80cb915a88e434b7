"""What is known in advance: the classes of published data sets, and sample images that other packages ship."""
