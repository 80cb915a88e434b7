"""Every attack tried on one model and its images: the trials, the report, and the advice that follows."""
