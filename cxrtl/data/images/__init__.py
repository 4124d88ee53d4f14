"""Image files to squares of grey pixels: JPEG, PNG, TIFF, BMP, DICOM and NIfTI, told by content and not by name.

    rules    limits, reasons, and the types that go in and out
    files    bytes from the disk, which format they are, the square
    raster   JPEG, PNG, TIFF, BMP through Pillow
    dicom    DICOM through pydicom and its decoders
    shades   what DICOM stores to shades of grey
    stack    several files to one row: channels, slices, a mask
    volume   NIfTI through nibabel; the slices of a volume
    series   a folder of DICOM slices
    places   where DICOM slices lie, and so their order
    seg      DICOM SEG: masks
    guard    decodes in a process of its own, which a file may kill, stall or fill without harm
    worker   what runs in that process

How a pixel becomes a grey byte: 8-bit grey stays; colour becomes luminance (0.299 R + 0.587 G + 0.114 B); alpha and
colour profiles are ignored; deeper grey maps the range from the smallest to the largest value present onto 0..255,
because scanners use 10, 12 or 16 of the bits and do not say which; 16-bit colour keeps its high bytes. EXIF
orientation is applied. `shades` says what DICOM adds. The square is made bilinearly with antialiasing.
"""

from cxrtl.data.images.rules import FILES, MAX_FILE_BYTES, MAX_PIXELS, REASONS, REFUSED, Decoded, Grey, How, Unusable

__all__ = ["FILES", "MAX_FILE_BYTES", "MAX_PIXELS", "REASONS", "REFUSED", "Decoded", "Grey", "How", "Unusable"]
