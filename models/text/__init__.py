"""Text of published checkpoints: tokens to text and back, and conversations by the checkpoint's chat template."""

from .chat_template import ChatTemplate
from .checkpoint_tokenizer import CheckpointTokenizer

__all__ = ["ChatTemplate", "CheckpointTokenizer"]
