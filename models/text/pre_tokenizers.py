"""Where a text is cut before byte-pair merges, by a GGUF's `tokenizer.ggml.pre`, as llama.cpp cuts it.

Each pattern cuts the pieces that the one before left, at every match; what lies between matches is a piece too. The
names, which of them share patterns and what else follows from a name are those of llama.cpp's llama-vocab.cpp.
"""

from dataclasses import dataclass

from tokenizers import Regex
from tokenizers.pre_tokenizers import ByteLevel, PreTokenizer, Sequence, Split

from ...kernels.checks import shown

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_CONTRACTION = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
_BLANKS = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|" + _BLANKS
_REST_WITH_SLASH = r" ?[^\s\p{L}\p{N}]+[\r\n/]*|" + _BLANKS
_WORD = r"[^\r\n\p{L}\p{N}]?\p{L}+"
# Of letters beyond ASCII llama.cpp's expression does not ask whether they are capitals.
_CASED = r"[^\r\n\p{L}\p{N}]?(?:(?=\p{L})[^a-z])*(?:(?=\p{L})[^A-Z])+"
_CAPITALS = r"[^\r\n\p{L}\p{N}]?(?:(?=\p{L})[^a-z])+(?:(?=\p{L})[^A-Z])*"


@dataclass(frozen=True)
class PreTokenizerType:
    """The patterns in turn; whether a piece that is a token is not merged from its parts, and whether a text begins
    with the BOS token where no other key says so."""

    patterns: tuple[str, ...]
    ignores_merges: bool = False
    adds_bos: bool = False

    def built(self) -> PreTokenizer:
        """The pre-tokenizer, whose pieces are of GPT-2's characters for bytes."""
        splits = [Split(Regex(pattern), "isolated") for pattern in self.patterns]
        return Sequence([*splits, ByteLevel(add_prefix_space=False, use_regex=False)])


_LLAMA3 = rf"{_CONTRACTION}|{_WORD}|\p{{N}}{{1,3}}|{_REST}"
_QWEN2 = rf"{_CONTRACTION}|{_WORD}|\p{{N}}|{_REST}"
_GROUPS = {
    ("default",): PreTokenizerType((r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", "[0-9][0-9][0-9]")),
    ("a.x-4.0", "exaone4", "gigachat", "gpt-2", "granite-docling", "jais", "mellum", "mpt", "olmo", "phi-2",
     "trillion"): PreTokenizerType((_GPT2,)),
    ("codeshell", "command-r", "exaone", "minerva-7b", "refact", "smollm", "starcoder"):
        PreTokenizerType((r"\p{N}", _GPT2)),
    ("falcon",): PreTokenizerType((r"[\p{P}\$\+<=>\^~\|`]+", _GPT2, "[0-9][0-9][0-9]")),
    ("falcon-h1", "falcon3", "lfm2", "llama-bpe", "llama-v3", "llama3", "midm-2.0", "pixtral"):
        PreTokenizerType((_LLAMA3,), ignores_merges=True, adds_bos=True),
    ("chatglm-bpe", "dbrx", "glm4", "smaug-bpe"): PreTokenizerType((_LLAMA3,)),
    ("deepseek-r1-qwen", "grok-2", "hunyuan", "kormo", "megrez", "qwen2", "solar-open", "stablelm2"):
        PreTokenizerType((_QWEN2,)),
    ("qwen35",): PreTokenizerType((
        rf"{_CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*"
        rf"|{_BLANKS}",)),
    ("tekken",): PreTokenizerType((rf"{_CASED}|{_CAPITALS}|\p{{N}}|{_REST_WITH_SLASH}",), ignores_merges=True,
                                  adds_bos=True),
    ("gpt-4o", "kanana2", "llama4"): PreTokenizerType((
        rf"{_CASED}{_CONTRACTION}?|{_CAPITALS}{_CONTRACTION}?|\p{{N}}{{1,3}}|{_REST_WITH_SLASH}",)),
    ("bailingmoe", "bailingmoe2", "llada-moe"): PreTokenizerType((
        rf"'(?:[sSdDmMtT]|[lL][lL]|[vV][eE]|[rR][eE])|{_WORD}|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]"
        r"|\s+(?!\S)|\s+",)),
    ("seed-coder",): PreTokenizerType((
        rf"{_CONTRACTION}|{_WORD}|\p{{N}}| ?[^\s\p{{L}}\p{{N}}\r\n]+|{_BLANKS}",)),
}
PRE_TOKENIZERS = {name: kind for names, kind in _GROUPS.items() for name in names}


def pre_tokenizer_type(name: object) -> PreTokenizerType:
    """The type of that name. ValueError with the list of names for any other."""
    if not isinstance(name, str) or name not in PRE_TOKENIZERS:
        raise ValueError(f"tokenizer.ggml.pre={shown(name)}: must be one of {', '.join(sorted(PRE_TOKENIZERS))}, whose "
                         "patterns are known; with others digits and blanks would be cut differently, and silently")
    return PRE_TOKENIZERS[name]
