"""Images: from encoded bytes to the uint8 pixels of an example.

Modules:
  crops: the training and evaluation views.
  draws: what is drawn for a training view.
  policies, policy_tables: RandAugment, TrivialAugment, AutoAugment, AugMix.
  operations: operations on the pixels of a view.
  resize: resizing with antialiasing.
  decode: any image file to RGB, within a bound on memory.
  jpeg: decoding only the needed part of a JPEG.
  turbojpeg: the same with TurboJPEG 3, if it is installed.
  dali: decoding on the GPU with NVIDIA DALI, if it is installed.
  icons: icon files, which hold several images.
"""
