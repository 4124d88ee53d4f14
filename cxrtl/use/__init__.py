"""What a finished run is good for: its fold models, verified, at work on images.

model       the models of one arm and budget, from files that their results vouch for
listing     files, folders and tables to a list of images
predict     probabilities for images of any number
external    how good the models are on another set
export      one ONNX file, checked against PyTorch
saliency    Grad-CAM of any backbone
explain     which images are explained, and whether the maps can be trusted
regions     masks and boxes that maps are compared with
square      the training's resizing as tensor operations
"""
