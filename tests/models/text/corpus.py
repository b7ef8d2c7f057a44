"""Texts on which tokenizers differ: digits, blanks, code, contractions, several scripts, what has no letters."""

TEXTS = (
    "", " ", "  ", "a", "a  1", "12345 678", "1", "in 1998,  23 of 4567890", "3.14159e-10", "x1y22z333 v4444",
    "\u0661\u0662\u0663 \u096a\u096b \u2167 \xbd\xb2", "a b", " lead", "trail ", "  two  between   three ",
    "\t\ttabs\t and \t", "line\nnext\n\nthird\r\nwindows\r\n\r\n", " \n \n  x\n", "no\xa0break\u2003em\u3000wide",
    "end of line   \n", "\n", "\n\n\n", "def f(x: int) -> str:\n    return f\"{x!r}\"  # {'a': [1, 2]}\n",
    "for(i=0;i<10;i++){a[i]+=b[i]*2;}", "https://example.org/a_b-c?d=e&f=%20#g", "if (x<=y && !z) || ~w ^ 0xFF",
    "a/b//c/*d*/\\n", "$100 + \u20ac5 = 50%", "I'm you're he'd we'll they've DON'T it'S", "'tis 'twas rock'n'roll",
    "camelCase HTTPServer iPhone McDonald",
    "\xc9COLE \xe9cole \xc0 la carte na\xefve co\xf6perate \xfcber \xd1and\xfa", "na\u0131ve e\u0301e\u0300 c\u0327",
    "\u041f\u0440\u0438\u0432\u0435\u0442, \u043c\u0438\u0440! 2024 \u0433\u043e\u0434",
    "\u0393\u03b5\u03b9\u03b1 \u03c3\u03bf\u03c5 \u039a\u03cc\u03c3\u03bc\u03b5",
    "\u65e5\u672c\u8a9e\u306e\u6587\u7ae0\u3067\u3059\u3002\u30ab\u30bf\u30ab\u30ca",
    "\u4f60\u597d\uff0c\u4e16\u754c\uff01\u4eca\u5929\u662f2024\u5e74",
    "\ud55c\uad6d\uc5b4 \ubb38\uc7a5\uc785\ub2c8\ub2e4.",
    "\u0645\u0631\u062d\u0628\u0627 \u0628\u0627\u0644\u0639\u0627\u0644\u0645 \u0661\u0662\u0663",
    "\u05e9\u05dc\u05d5\u05dd \u05e2\u05d5\u05dc\u05dd",
    "\u0928\u092e\u0938\u094d\u0924\u0947 \u0926\u0941\u0928\u093f\u092f\u093e \u0967\u0968\u0969",
    "\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35\u0e0a\u0e32\u0e27\u0e42\u0e25\u0e01",
    "\U0001f600 \U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001f1eb\U0001f1f7 \U0001f44d\U0001f3fd!",
    "\U0001d54f \U00020000 \U0001f9ff", "caf\xe9\u0301\u200b\ufeffzero", "!!! ??? ... --- ***",
    "(a)[b]{c}<d>\"e\"'f'", "\u201cquoted\u201d \u2018single\u2019 \u2014 \u2026",
    "\xab\xbb\xa7\xb6\u2022\u2020\u221a\u2211\u222b\u2260", "<|im_start|>user\nHi 12<|im_end|>\n",
    "<s>[INST] hi [/INST]</s>", "\x00\x01\x7f\x1b[0m", "a\x0bb\x0cc\x1cd\x85e\u2028f")
"""Among them special tokens of chat templates, which count as such."""
