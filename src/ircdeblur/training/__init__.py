"""Training: Lightning modules and data modules (extra ``train``)."""
