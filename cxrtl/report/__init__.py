"""From a run folder to a page; reads result files only, and needs neither torch nor Ray.

status       what of a run is done, running and missing
load         what the folder holds, checked against the recorded hashes
shape        the types of `summary.json`
summary      every number of the page, with contrast (arms, published values) and provenance (data, leakage, recipe)
numbers      how a number is written
words        how findings are said
measures     what is computed of one arm at one budget
curves       drawings of scores: ROC, precision-recall, reliability
style        how drawings look and are saved
figures      the drawings, as SVG and PNG
versus       a run against another, or against a published table
subgroups    the headline by further columns
samples      a few images of each outcome, kept in the run folder
reporting    methods paragraph and reporting checklists
markdown     the same numbers as text
page         `report.html` and `compare.html`
finish       the end of a run: samples, then the report
"""
