"""A stranger's template writes what transformers' would, and reaches nothing."""

from datetime import datetime
from typing import Any

import pytest
from quicksilver.models.text import ChatTemplate
from transformers.utils.chat_template_utils import render_jinja_template

from .folders import CHAT

MESSAGES = [{"role": "system", "content": "Be <brief> & \u00e9"}, {"role": "user", "content": "hi \"there\"\n"}]
TEMPLATES = {
    "chat": CHAT,
    "tokens": "{{ bos_token }}{% for m in messages %}{{ m.content | trim }}{{ eos_token }}{% endfor %}",
    "blocks": "  {% if messages %}\n    {% for m in messages %}\n{{ m.role }}:\n    {% endfor %}\n  {% endif %}\nend",
    "json": "{{ messages | tojson }} {{ {'b': 1, 'a': '<\u00e9>'} | tojson(indent=2) }}",
    "loops": "{% for m in messages %}{% if loop.first %}{% continue %}{% endif %}{{ m.role }}{% break %}{% endfor %}",
    "generation": "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}",
    "undefined": "{{ tools }}|{{ documents }}|{{ nothing }}|{% if tools is none %}none{% endif %}",
    "namespace": "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}",
    "macro": "{% macro say(m) %}[{{ m.role | upper }}]{% endmacro %}{% for m in messages %}{{ say(m) }}{% endfor %}",
}
TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("add_generation_prompt", [True, False])
def test_a_text_is_what_transformers_renders(name: str, add_generation_prompt: bool) -> None:
    tokens: dict[str, Any] = dict(TOKENS)
    wanted, _ = render_jinja_template([MESSAGES], chat_template=TEMPLATES[name], **tokens,
                                      add_generation_prompt=add_generation_prompt)
    template = ChatTemplate(TEMPLATES[name], TOKENS, "folder")
    assert template.rendered(MESSAGES, add_generation_prompt=add_generation_prompt) == wanted[0]


def test_a_template_may_ask_for_the_date_and_for_further_variables() -> None:
    template = ChatTemplate("{{ strftime_now('%Y') }} {{ thinks }} {{ tools[0].name }}", {}, "folder")
    given = {"thinks": True, "tools": [{"name": "f"}]}
    assert template.rendered(MESSAGES, variables=given) == f"{datetime.now():%Y} True f"


@pytest.mark.parametrize(("source", "message"), [
    ("{{ raise_exception('roles must alternate') }}", "TemplateError: roles must alternate"),
    ("{% for %}", "TemplateSyntaxError"),
    ("{{ messages[0].content.missing.more }}", "UndefinedError"),
    ("{{ messages[7].content }}", "UndefinedError"),
    ("{{ 1 / 0 }}", "ZeroDivisionError"),
    ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "SecurityError"),
    ("{{ messages.append(1) }}", "SecurityError"),
    ("{{ messages[0].update(role='x') }}", "SecurityError"),
    ("{{ cycler.__init__.__globals__.os.system('true') }}", "SecurityError"),
    ("{{ raise_exception.__globals__.os }}", "SecurityError"),
    ("{% include '/etc/passwd' %}", "TypeError|TemplateNotFound|TemplatesNotFound"),
    ("{{ range(10**9) | list | length }}", "OverflowError"),
    ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "RecursionError"),
], ids=lambda value: value)
def test_what_a_template_may_not_is_one_line(source: str, message: str) -> None:
    messages: list[dict[str, Any]] = [dict(message) for message in MESSAGES]
    with pytest.raises(ValueError, match=f"folder: the chat template refuses .*({message})") as refused:
        ChatTemplate(source, TOKENS, "folder").rendered(messages)
    assert "\n" not in str(refused.value)
    assert messages == MESSAGES


def test_what_is_no_json_is_named() -> None:
    with pytest.raises(ValueError, match="refuses .*: its variables must be values of JSON .*complex"):
        ChatTemplate(CHAT, TOKENS, "folder").rendered(MESSAGES, variables={"tools": [1j]})


def test_a_message_of_a_template_is_one_line_and_short() -> None:
    template = ChatTemplate("{{ raise_exception('no\n' * 1000) }}", TOKENS, "folder")
    with pytest.raises(ValueError, match=r"TemplateError: no no no") as refused:
        template.rendered(MESSAGES)
    assert len(str(refused.value)) < 1000
