"""The command line, `hf-toedit`."""

from .command import app as app
from .main import main as main
