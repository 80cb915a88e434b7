"""Facts about published data sets, sample images that other packages ship, and street images that this one does."""
