"""Chat templates: rendered as transformers renders them, found where it saves them, or refused."""

import itertools
import json
import re

import pytest
import torch
from tokenizers import Tokenizer

from smol import BPETokenizer
from smol.generate.text import chat, chat_ends_of
from smol.tests.ggufs import small_model, small_tokenizer
from smol.tokenizer import CHAT_TEMPLATE, chat_text
from smol.tokenizer.chat import template_in

# In the manner of the templates of well-known models.
TEMPLATES = {
    "ChatML": CHAT_TEMPLATE,
    "no system message of its own": """
        {%- for message in messages %}
            {{- '<|' + message['role'] + '|>\\n' + message['content'] | trim + '</s>\\n' }}
        {%- endfor %}
        {%- if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}""",
    "lines": """{% for message in messages %}
    {% if message.role == 'user' %}
User: {{ message.content }}
    {% elif loop.last %}
Last: {{ message.content }}
    {% endif %}
{% endfor %}
{% if add_generation_prompt %}
Assistant:
{% endif %}
""",
    "tools": """{% if tools %}never{% endif %}{% if tools is not none and tools %}never{% endif %}
{%- if documents %}never{% endif %}{% for m in messages %}{% if m.tool_calls %}never{% endif %}
{%- if m.get('tool_calls') %}never{% endif %}[{{ m.role }}]{{ m.content }}{% endfor %}""",
    "undefined": "{% if enable_thinking %}a{% else %}b{% endif %}{{ nothing }}{{ messages[0].x }}"
    "{% if enable_thinking is defined %}c{% endif %}{{ messages[0]['role'] }}",
    "generation": """{% for m in messages %}
{% if m.role == 'assistant' %}
{% generation %}
{{ m.content }}
{% endgeneration %}
{% else %}
{{ m.content }}
{%- endif %}
{% endfor %}""",
    "generation that trims": """{% for m in messages %}
    {{ m.role }}:
    {%- generation -%}
    {{ m.content }}
    {%- endgeneration %}
    .
{% endfor %}""",
    "generation on one line": "{% for m in messages %}{%generation%} {{ m.content }} "
    "{%endgeneration%}{% endfor %}",
    "loop controls": """{% for m in messages %}{% if m.role == 'system' %}{% continue %}{% endif %}
{{- m.content }}{% if loop.index > 2 %}{% break %}{% endif %}{% endfor %}""",
    "namespace": """{% set ns = namespace(found=false, n=0) %}{% for m in messages %}
{%- set ns.n = ns.n + 1 %}{% if m.role == 'user' %}{% set ns.found = true %}{% endif %}{% endfor %}
{{- ns.found }} {{ ns.n }}""",
    "json": "{{ messages | tojson }}{{ messages[0].content | tojson(indent=2) }}"
    "{{ 'é<&>' | tojson(ensure_ascii=True) }}",
    "slices": "{% for m in messages[1:] %}{{ loop.index0 }}{{ m.content[::-1] }}{% endfor %}"
    "{{ messages | length }}{{ messages[-1]['content'].split('\\n')[0].strip() }}",
    "macro": "{% macro turn(m) %}<{{ m.role }}>{{ m.content | upper }}{% endmacro %}"
    "{% for m in messages %}{{ turn(m) }}{% endfor %}",
    "the year": "{{ strftime_now('%Y') }}{% if strftime_now is defined %}!{% endif %}",
    "alternating": """{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}
{{- raise_exception('roles must alternate') }}{% endif %}[{{ m.content }}]{% endfor %}""",
}
CONTENTS = ["Hi", " two\nlines \n", "", "<b>é&漢</b> \"'", "{{ 7 * 7 }}{% if %}", "<|im_end|>"]
ROLES = [
    ["user"],
    ["system", "user"],
    ["user", "assistant", "user"],
    ["system", "user", "assistant", "assistant"],
]


def conversations() -> list[list[dict]]:
    contents = itertools.cycle(CONTENTS)
    return [[{"role": r, "content": next(contents)} for r in roles] for roles in ROLES * 5]


@pytest.fixture(scope="module")
def theirs():
    from transformers import PreTrainedTokenizerFast

    rust = Tokenizer.from_str(json.dumps(small_tokenizer().to_dict()))
    return PreTrainedTokenizerFast(tokenizer_object=rust)


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_is_rendered_as_transformers_renders_it(theirs, name):
    template, seen = TEMPLATES[name], set()
    for messages in conversations():
        for begun in (False, True):
            how = {"tokenize": False, "chat_template": template, "add_generation_prompt": begun}
            try:
                expected = theirs.apply_chat_template(messages, **how)
            except Exception as error:
                with pytest.raises(ValueError, match=re.escape(str(error))):
                    chat_text(messages, begun, template)
            else:
                assert chat_text(messages, begun, template) == expected
                assert "never" not in expected
                seen.add(expected)
    assert seen


def test_the_one_written_out_is_chatml():
    for messages in conversations():
        for begun in (False, True):
            assert chat_text(messages, begun, CHAT_TEMPLATE) == chat_text(messages, begun)


# -- refused ------------------------------------------------------------------------------------

HI = [{"role": "user", "content": "Hi"}]


@pytest.mark.parametrize(
    ("template", "why"),
    [
        ("{{ raise_exception('only one system message') }}", "only one system message"),
        ("{{ bos_token }}{{ messages[0].content }}", "'bos_token' is undefined"),
        ("{% if eos_token == '' %}{% endif %}", "'eos_token' is undefined"),
        ("{% for m in messages %}", "Unexpected end of template"),
        ("{% nonsense %}", "unknown tag 'nonsense'"),
        ("{% generation %}", "Unexpected end of template"),
        ("{{ messages[9].content }}", "no element 9"),
        ("{{ messages.content.x }}", "has no attribute 'content'"),
        ("{{ 1 / 0 }}", "division by zero"),
        ("{{ messages + 1 }}", "concatenate list"),
        ("{{ 'a' | nonsense }}", "No filter named 'nonsense'"),
        ("{% include 'x' %}", "no loader"),
        ("{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}", "recursion"),
        ("{{ '%d' % 'x' }}", "number is required"),
        ("{{ " + "(" * 500 + "1" + ")" * 500 + " }}", ""),
        ("".join(f"{{% for a{i} in [1] %}}" for i in range(40)) + "{% endfor %}" * 40, ""),
        # what would reach Python through a value
        ("{{ ''.__class__ }}", "unsafe"),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "unsafe"),
        ("{{ messages.append.__globals__ }}", "unsafe"),
        ("{{ ''['__class__'] }}", "unsafe"),
        ("{{ '' | attr('__class__') }}", "unsafe"),
        ("{{ raise_exception.__globals__ }}", "unsafe"),
        ("{{ strftime_now.__globals__['json'] }}", "unsafe"),
        ("{{ '{0.__class__}'.format('') }}", "unsafe"),
        ("{{ cycler.__init__.__globals__.os.popen('id').read() }}", "unsafe"),
        ("{{ messages.append(1) }}", "unsafe"),
        ("{{ messages[0].update(role='x') }}", "unsafe"),
        ("{% for i in range(10**9) %}x{% endfor %}", "Range too big"),
    ],
)
def test_what_cannot_be_rendered_is_one_sentence(template, why):
    with pytest.raises(ValueError) as caught:
        chat_text(HI, template=template)
    text = str(caught.value)
    assert text.startswith("the model's chat template cannot be rendered (")
    assert why in text and "write the conversation out as a text" in text
    assert "\n" not in text and len(text) < 450
    assert HI == [{"role": "user", "content": "Hi"}]


@pytest.mark.parametrize("template", [5, b"{{ 1 }}", ["{{ 1 }}"]])
def test_a_template_that_is_no_text_is_refused(template):
    with pytest.raises(ValueError, match="template must be a text, got"):
        chat_text(HI, template=template)


@pytest.mark.parametrize("messages", [[], "Hi", [{"role": "user"}], [{"role": 1, "content": ""}]])
def test_what_is_no_conversation_is_refused_whatever_the_template(messages):
    for template in (None, "{{ 1 }}"):
        with pytest.raises(ValueError, match="a chat is a list of"):
            chat_text(messages, template=template)
    with pytest.raises(ValueError, match="add_generation_prompt must be True or False"):
        chat_text(HI, 1, "{{ 1 }}")


# -- where a folder keeps it --------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    small_tokenizer().save(tmp_path)
    return tmp_path


def settings(folder, content) -> None:
    (folder / "tokenizer_config.json").write_text(json.dumps(content), encoding="utf-8")


def test_a_folder_without_one_chats_as_smollm2(folder):
    loaded = BPETokenizer.load(folder)
    assert loaded.chat_template is None
    assert loaded.apply_chat_template(HI) == small_tokenizer().encode(chat_text(HI))


@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_a_file_of_its_own_comes_first(folder, mark):
    settings(folder, {"chat_template": "{{ 'other' }}"})
    (folder / "chat_template.jinja").write_text(mark + "{{ 'é' }}", encoding="utf-8")
    loaded = BPETokenizer.load(folder)
    assert loaded.chat_template == "{{ 'é' }}"
    assert loaded.apply_chat_template(HI) == loaded.encode("é")


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ({"chat_template": "{{ 'a' }}"}, "{{ 'a' }}"),
        ({"chat_template": [{"name": "tool_use", "template": "t"},
                            {"name": "default", "template": "d"}]}, "d"),
        ({"chat_template": [{"name": "tool_use", "template": "t"}]}, None),
        ({"chat_template": [5, {}]}, None),
        ({"chat_template": []}, None),
        ({"chat_template": None}, None),
        ({}, None),
        ([], None),
        (5, None),
    ],
    ids=str,
)  # fmt: skip
def test_tokenizer_config_json_may_hold_it(folder, content, found):
    settings(folder, content)
    assert template_in(folder) == BPETokenizer.load(folder).chat_template == found


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000])
def test_settings_that_cannot_be_read_are_none(folder, content):
    (folder / "tokenizer_config.json").write_bytes(content)
    assert BPETokenizer.load(folder).chat_template is None


@pytest.mark.parametrize(
    "content", [5, {"default": "x"}, True, [{"name": "default", "template": 5}]], ids=str
)
def test_a_template_in_the_settings_that_is_no_text_is_named(folder, content):
    settings(folder, {"chat_template": content})
    with pytest.raises(ValueError, match=r"chat_template is .*, not a text: mend it") as caught:
        BPETokenizer.load(folder)
    assert str(folder) in str(caught.value)


def test_a_template_that_is_not_utf8_is_named(folder):
    (folder / "chat_template.jinja").write_bytes(b"\xff\xfe{{ 1 }}")
    with pytest.raises(ValueError, match=r"chat_template\.jinja is not UTF-8"):
        BPETokenizer.load(folder)


def test_what_transformers_saves_is_found(theirs, folder):
    theirs.chat_template = TEMPLATES["lines"]
    theirs.save_pretrained(folder)
    assert BPETokenizer.load(folder).chat_template == TEMPLATES["lines"]


def test_a_tokenizer_json_alone_has_none(folder):
    (folder / "chat_template.jinja").write_text("{{ 1 }}")
    assert BPETokenizer.load(folder / "tokenizer.json").chat_template is None


# -- what ends an answer ------------------------------------------------------------------------


def ends(special: tuple[str, ...], eos) -> list[int]:
    tokenizer = BPETokenizer.train(["a b c"], 256 + len(special), special)
    return chat_ends_of(small_model(vocab_size=300, eos_token_id=eos), tokenizer)


def test_an_answer_ends_where_its_turn_or_any_text_ends():
    both = ("<|endoftext|>", "<|im_end|>")
    assert ends(both, 1) == [1, 0]
    assert ends(both, [7, 0]) == [1, 7, 0]
    assert ends(("<|im_end|>",), None) == [0]
    assert ends(("<end_of_turn>",), 0) == [0]  # another model's template, another end
    assert ends(("<|endoftext|>",), None) == [0]


def test_an_answer_that_nothing_ends_is_refused():
    with pytest.raises(ValueError, match="names an end of text: give stop_ids"):
        ends(("<end_of_turn>",), None)


def test_a_chat_by_another_template_ends_at_the_models_end():
    """A model that only ever says token 1, or 2: what ends one answer is text in the other."""
    tokenizer = BPETokenizer.train(["a b c"], 259, ("<turn>", "<end>", "<more>"))
    tokenizer.chat_template = "{% for m in messages %}<turn>{{ m.content }}<end>{% endfor %}<turn>"
    for says, steps in ((1, 1), (2, 5)):
        model = small_model(vocab_size=259, eos_token_id=1, tie_word_embeddings=False)
        seen = []

        def only(module, inputs, logits, says=says, seen=seen):
            seen.append(logits)
            return torch.full_like(logits, -1.0).index_fill(-1, torch.tensor(says), 1.0)

        model.lm_head.register_forward_hook(only)
        assert "".join(chat(model, tokenizer, HI, 5)) == ""  # special tokens are not shown
        assert len(seen) == steps
