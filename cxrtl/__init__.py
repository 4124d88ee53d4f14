"""Transfer learning on chest X-rays, cross-validated on Ray."""
