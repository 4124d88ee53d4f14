"""`cxrtl bench`: how near to this machine's limit training is, everything measured side by side in one run."""
