"""From a run folder to a page; reads result files only, and needs neither torch nor Ray.

status       what of a run is done, running and missing
load         what the folder holds, checked against the recorded hashes
shape        the types of `summary.json`, with shape_rows (arms)
summary      every number of the page, with contrast (arms, published values) and provenance (data, leakage, recipe)
readers      what readers said of the same images
lineage      how images were held out, and the stages behind each arm
vocabulary   each task's measures and their names
numbers      how a number is written
glance       the first screen
words        how findings are said, with captions
measures     what is computed of one arm at one budget
curves       drawings of scores: ROC, precision-recall, reliability
style        how drawings look and are saved
figures      the drawings, as SVG and PNG, with parts (classes, findings, areas)
versus       a run against another, or against a published table
subgroups    the headline by further columns
samples      a few images of each outcome, kept in the run folder
reporting    methods paragraph and reporting checklists
markdown     the same numbers as text, with set_beside (what compares) and pipes (tables)
page         `report.html` and `compare.html`
finish       the end of a run: samples, then the report
"""
