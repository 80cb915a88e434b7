"""Facts about published data sets, and sample images that other packages ship."""
