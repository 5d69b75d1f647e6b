"""earwitness: an eyewitness teaches, an earwitness learns.

Distils reasoning into audio-language models from teachers that cannot hear. Importing this package loads neither
torch nor transformers; the rooms that need them import them when they are called.
"""

__version__ = "0.1.0"
