"""From out-of-fold predictions to numbers with intervals; needs neither torch nor Ray.

metrics      what the counts and the ranks say
intervals    one proportion, F1, one AUC: the intervals for independent images
delong       variance of one AUC and covariance of several, also where patients hold several images
weighted     statistics under patient weights
bootstrap    intervals that resample whole patients
estimates    two classes: every metric with the interval that suits the data
overlap      Dice, IoU and Hausdorff distance of predicted areas
judge        any task's measures with their intervals: what the report calls
curves       ROC with its band, precision against recall
chance       permutation test of an AUC
calibration  whether scores are probabilities
operating    thresholds chosen on other folds
compare      two arms on the same images: the tests
paired       any task's differences between two arms
pool         one out-of-fold prediction an image, or a refusal
"""
