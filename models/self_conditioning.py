"""What a denoiser has beside the layers that it shares with its encoder (DiffusionGemma, transformers'
modeling_diffusion_gemma): self-conditioning (Chen et al., arXiv 2208.04202) and its view of a canvas.

    x = (e + ffn(norm(signal))) / rms          signal = the embeddings' mean under the last step's distributions, or 0
"""

import torch
from torch import Tensor, nn

from .attention import AttentionMask, Bidirectional, CanvasWindow
from .config import Shape
from .kv_store import KVStore, KVWrite
from .layers import GeGLU, norm_of, unit_norm


class SelfConditioning(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.norm, self.ffn = norm_of(shape, shape.width), GeGLU(shape.width, shape.ffn_width)
        self.eps = shape.norm_eps

    def forward(self, x_BFE: Tensor, signal_BFE: Tensor) -> Tensor:
        """What the first layer takes for embeddings and a signal [B, F, E]."""
        return unit_norm(x_BFE + self.ffn(self.norm(signal_BFE, None)[0]), self.eps)


def of_canvas(tokens_BF: Tensor, start: int, store: KVStore, window: int | None
              ) -> tuple[Tensor, tuple[AttentionMask, AttentionMask | None], KVWrite]:
    """The positions [B, F] of a canvas that begins at `start`, its mask and that of layers with a window, and its write
    to the store, which has the earlier positions."""
    end = start + tokens_BF.shape[1]
    key_1C = torch.arange(end, device=tokens_BF.device)[None]
    query_1F = key_1C[:, start:]
    mask, windowed = AttentionMask(Bidirectional(), query_1F, key_1C), None
    if window is not None:
        windowed = AttentionMask(CanvasWindow(Bidirectional(), window, start), query_1F, key_1C)
    positions_BF = query_1F.expand(len(tokens_BF), -1).contiguous()
    return positions_BF, (mask, windowed), store.write(positions_BF, end)
