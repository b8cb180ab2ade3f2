from __future__ import annotations

import copy
import json
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from functions.worker.runners.templates import (
    MAX_DEPTH,
    MAX_SIZE,
    PlaceholderError,
    look_up,
    names,
    render,
)

if TYPE_CHECKING:
    from collections.abc import Callable

SCOPE: dict[str, Any] = {
    "args": {
        "ids": ["a", "b", {"deep": 7}],
        "0": "zero",
        "name": "Ada",
        "number": 5,
        "whole": 5.0,
        "part": 1.25,
        "yes": True,
        "null": None,
        "empty": "",
        "spaces": "  x ",
        "object": {"é": [1, None]},
        "numbers": [1, 2.0, "c", None, [3]],
        "foo-bar_1": "dashes",
        "sl/ash": "slash",
        "two words": "spaced",
        "a.b": "dotted",
        "größe": 1,
    }
}


@pytest.mark.parametrize(
    ("template", "rendered"),
    [
        ("plain", "plain"),
        ("", ""),
        ("{{args.name}}", "Ada"),
        ("{{ args.name }}", "Ada"),
        ("{{\targs.name\n}}", "Ada"),
        ("<{{args.name}}>", "<Ada>"),
        (" {{args.number:int}}", " 5"),
        ("{{args.name}}{{args.name}}-{{args.number}}", "AdaAda-5"),
        ("{{args.ids.0}}", "a"),
        ("{{args.ids.2.deep:any}}", 7),
        ("{{args.0}}", "zero"),
        ("{{args.foo-bar_1}} {{args.sl/ash}} {{args.two words}}", "dashes slash spaced"),
    ],
)
def test_render__path(template: str, rendered: object) -> None:
    assert render(template, SCOPE) == rendered


@pytest.mark.parametrize(
    "text",
    [
        "{{args.none}}",
        "x {{args.none}} y",
        "{{none.name}}",
        "{{args.ids.3}}",
        "{{args.ids.-1}}",
        "{{args.ids.+1}}",
        "{{args.ids.0_1}}",
        "{{args.ids.²}}",
        "{{args.ids.99999999999999999999}}",
        "{{args.ids[0]}}",
        "{{args.name.0}}",
        "{{args.number.real}}",
        "{{args.null.x}}",
        "{{args.a.b}}",
        "{{args..name}}",
        "{{args.größe}}",
        "{{}}",
        "{{ }}",
        "{{.}}",
        "{{|}}",
        "{{:}}",
        "{{?:}}",
        "{{args.none?:}}",
        "{{args.none:str}}",
        "{{args.none:nonsense}}",
        "{{args.none|none}}",
        "{{args.empty:ignore-empty-str}}",
        "{{args.empty|args.none:ignore-empty-str}}",
        "{args.name}",
        "{{args.name}",
        "{{args.name'}}",
        "{{args.name\0}}",
    ],
)
def test_render__no_value__unchanged(text: str) -> None:
    assert render(text, SCOPE) == text
    assert render(f"x {text}", SCOPE) == f"x {text}"


@pytest.mark.parametrize("path", ["__class__", "args.__class__", "args.ids.__len__", "args.name.upper", "args.keys"])
def test_render__attribute__unchanged(path: str) -> None:
    assert render(f"{{{{{path}:any}}}}", SCOPE) == f"{{{{{path}:any}}}}"
    assert look_up(path, SCOPE) is None


@pytest.mark.parametrize(
    ("template", "rendered"),
    [
        ("{{args.name|args.number}}", "Ada"),
        ("{{args.none|args.name}}", "Ada"),
        ("{{args.none:str | args.number : int}}", 5),
        ("{{args.none|none|args.ids.1}}", "b"),
        ("{{args.null|args.name}}", None),
        ("{{args.empty|args.name}}", ""),
        ("{{args.empty|args.name:ignore-empty-str}}", "Ada"),
        ("{{args.empty:ignore-empty-str|args.name}}", "Ada"),
        ("{{args.name:ignore-empty-str}}", "Ada"),
        ("{{args.empty:ignore-empty-str?:none}}", "none"),
    ],
)
def test_render__alternatives(template: str, rendered: object) -> None:
    assert render(template, SCOPE) == rendered


@pytest.mark.parametrize(
    ("template", "rendered"),
    [
        ("{{none?:text}}", "text"),
        ("{{args.name?:text}}", "Ada"),
        ("{{args.null?:text}}", None),
        ("{{args.empty?:text}}", ""),
        ("{{none ?: two words }}", " two words "),
        ("{{none?:https://api.example/v1}}", "https://api.example/v1"),
        ("{{none?:a|b}}", "a|b"),
        ("{{none|args.none:str?:7:int}}", 7),
        ("{{none?: 1.5 : num}}", 1.5),
        ("{{none?:true:bool}}", True),
        ("{{none?:null:null}}", None),
        ("{{none?:null:json}}", None),
        ("{{none?:7:any}}", "7"),
        ("<{{none?:7:int}}>", "<7>"),
        ("{{none:undefined?:x}}", "x"),
        ("{{none:null?:x}}", "x"),
        ("{{none?:args.name}}", "args.name"),
    ],
)
def test_render__defaults(template: str, rendered: object) -> None:
    assert render(template, SCOPE) == rendered


@pytest.mark.parametrize(
    ("value", "type_", "rendered"),
    [
        ("1", "int", 1),
        (" 12 ", "int", 12),
        ("-12abc", "int", -12),
        ("1.9", "int", 1),
        ("0x1F", "int", 31),
        (-1.9, "int", -1),
        (True, "int", True),
        ("abc", "int", "abc"),
        ("", "int", ""),
        ("١", "int", "١"),
        ("9" * 5000, "int", "9" * 5000),
        ([5], "int", [5]),
        ("12345678901234567890", "int", 12345678901234567890),
        ("1.5", "num", Decimal("1.5")),
        ("1.0", "num", 1),
        (".5x", "num", Decimal("0.5")),
        ("-1e3", "num", -1000),
        ("12345678901234567890", "num", 12345678901234567890),
        (2, "num", 2),
        ("x", "num", "x"),
        ("1e999", "num", "1e999"),
        ("9" * 5000, "num", "9" * 5000),
        ("Infinity", "num", "Infinity"),
        ("NaN", "num", "NaN"),
        ("true", "bool", True),
        (" false", "bool", False),
        (True, "bool", True),
        ("True", "bool", "True"),
        (1, "bool", 1),
        ('{"a": [1]}', "json", {"a": [1]}),
        ("[]", "json", []),
        ("5", "json", 5),
        ("null", "json", None),
        ({"a": 1}, "json", {"a": 1}),
        ([1], "json", [1]),
        (5, "json", 5),
        ("{", "json", "{"),
        ("NaN", "json", "NaN"),
        ("[1e999]", "json", "[1e999]"),
        ("[" * 100_000, "json", "[" * 100_000),
        ("x", "any", "x"),
        ({"a": 1}, "any", {"a": 1}),
        (None, "any", None),
        ("null", "null", None),
        ("x", "null", "x"),
        (5, "null", 5),
        ("x", "undefined", "x"),
        (5, "ignore-empty-str", 5),
        ("5", "int:null", 5),
        ("5", "int:undefined", 5),
        (" x ", "str", " x "),
        (5, "str", "5"),
        (5.0, "str", "5"),
        (1e300, "str", "1e+300"),
        (0.1, "str", "0.1"),
        (True, "str", "true"),
        (None, "str", None),
        ({"é": [1, None]}, "str", '{"é":[1,null]}'),
        ([1, 2.0, "c", None, [3], {"d": 4}], "str", '1,2,c,null,[3],{"d":4}'),
        ([], "str", ""),
    ],
)
def test_render__types(value: object, type_: str, rendered: object) -> None:
    result = render(f"{{{{a:{type_}}}}}", {"a": value})
    assert (result, type(result)) == (rendered, type(rendered))
    if type_ == "str":
        assert render("{{a}}", {"a": value}) == rendered


@pytest.mark.parametrize(
    ("value", "type_", "text"),
    [
        ("1.9", "int", "1"),
        ("true", "bool", "true"),
        (False, "bool", "false"),
        (None, "str", "null"),
        ("null", "null", "null"),
        ("x", "null", "x"),
        ('{"a": 1}', "json", '{"a": 1}'),
        ({"a": 1}, "json", '{"a":1}'),
        (["a", "b"], "any", "a,b"),
        (5.0, "any", "5"),
    ],
)
def test_render__types_within_text(value: object, type_: str, text: str) -> None:
    assert render(f"<{{{{a:{type_}}}}}>", {"a": value}) == f"<{text}>"


@pytest.mark.parametrize("template", ["{{args.name:nonsense}}", "{{args.name:int:nonsense}}", "{{args.null:Str}}"])
def test_render__unknown_type__raises(template: str) -> None:
    for each in (template, f"<{template}>", {"a": [template]}):
        with pytest.raises(PlaceholderError, match="unknown type") as raised:
            render(each, SCOPE)
        assert template in raised.value.message
        assert "Ada" not in raised.value.message


def test_render__unknown_type_of_default__raises_if_used() -> None:
    assert render("{{args.name?:12:30}}", SCOPE) == "Ada"
    with pytest.raises(PlaceholderError, match='unknown type "30"'):
        render("{{none?:12:30}}", SCOPE)


def test_render__undefined_and_null() -> None:
    template = {
        "gone": "{{none:undefined}}",
        "too": "{{none:int:undefined|none.x}}",
        "null": "{{none:null}}",
        "typed": "{{none:int:null}}",
        "within": "a{{none:undefined}}b{{none:null}}",
        "list": [1, "{{none:undefined}}", "{{none:null}}", {"x": "{{none:undefined}}"}],
        "there": "{{args.name:undefined}}",
    }
    assert render(template, SCOPE) == {
        "null": None,
        "typed": None,
        "within": "abnull",
        "list": [1, None, {}],
        "there": "Ada",
    }
    assert render("{{none:undefined}}", SCOPE) is None


def test_render__any_shape__template_not_modified() -> None:
    template = {"a": [{"b": "{{args.number:int}}"}, ["{{args.name}}"], 1.5, True, None], "{{args.name}}": "key"}
    before = copy.deepcopy(template)
    scope = copy.deepcopy(SCOPE)
    assert render(template, scope) == {"a": [{"b": 5}, ["Ada"], 1.5, True, None], "{{args.name}}": "key"}
    assert (template, scope) == (before, SCOPE)
    assert [render(value, SCOPE) for value in (None, 7, True)] == [None, 7, True]


HOSTILE = [
    "{{secret}}",
    "{{secret:json}}",
    "{{",
    "}}",
    "{{a}}",
    "$&$`$'$1$$",
    r"\1\g<0>",
    "%s %(a)s {0} {a.__class__}",
    "a\0b",
    "\ud800",
    "😀 한 \u202e",
    "' or 1=1 --",
    "../../etc",
    "x\r\nHost: evil",
]


@pytest.mark.parametrize("value", HOSTILE)
def test_render__value_with_placeholder__not_rendered(value: str) -> None:
    scope = {"a": value, "b": {"c": [value]}, "secret": "hush", "j": json.dumps({"$truto_merge": value, "k": value})}
    assert render("{{a}}", scope) == value
    assert render("{{a}}{{secret}}{{a}}", scope) == f"{value}hush{value}"
    assert render("{{{{a}}}}", scope) == f"{{{{{value}}}}}"
    assert render({"x": "{{b:json}}", "y": ["{{b.c:any}}"]}, scope) == {"x": {"c": [value]}, "y": [[value]]}
    assert render({"x": 1, "$truto_merge": "{{j:json}}"}, scope) == {"x": 1, "$truto_merge": value, "k": value}
    assert render("{{j:json}}", scope) == {"$truto_merge": value, "k": value}


def test_render__adjacent_values__no_placeholder() -> None:
    assert render("{{a}}{{b}}", {"a": "{{sec", "b": "ret}}", "secret": "hush"}) == "{{secret}}"
    assert render("{{x{{a}}y}}", {"a": "}}{{secret}}", "secret": "hush"}) == "{{x}}{{secret}}y}}"


@settings(max_examples=60)
@given(st.recursive(st.text("{}a$.|:?& \0é"), lambda inner: st.lists(inner) | st.dictionaries(st.text("{}a"), inner)))
def test_render__any_value__unchanged(value: object) -> None:
    assert render({"x": ["{{v:any}}"]}, {"v": [value], "a": "never"}) == {"x": [[value]]}


@settings(max_examples=150)
@given(st.text("{}ab.|:?0 -"), st.text("{}ab.|:?0 -"))
def test_render__any_text__rendered_or_refused(template: str, value: str) -> None:
    try:
        rendered = render(["x" + template], {"a": value, "b": [value]})
    except PlaceholderError:
        return
    assert isinstance(rendered, list)
    assert all(isinstance(element, str) for element in rendered)


@pytest.mark.parametrize(
    ("template", "rendered"),
    [
        ({"a": 1, "$truto_merge": "{{o:json}}"}, {"a": 1, "b": {"c": [1], "d": 2}}),
        ({"b": {"c": [0], "d": 0, "e": 3}, "$truto_merge": "{{o:json}}"}, {"b": {"c": [0, 1], "d": 2, "e": 3}}),
        ({"b": 1, "$truto_merge": "{{o:json}}"}, {"b": {"c": [1], "d": 2}}),
        ({"x": 0, "$truto_merge": ["{{p:json}}", "{{q:json}}"]}, {"x": 2, "y": {"p": 1, "q": 1}}),
        ({"x": {"x": 0, "$truto_merge": "{{p:json}}"}, "$truto_merge": "{{q:json}}"}, {"x": 2, "y": {"q": 1}}),
        ({"x": 0, "$truto_merge": "{{none:json|s:json}}"}, {"x": 0, "s": 1}),
        ({"x": 0, "$truto_merge": {"n": "{{n}}"}}, {"x": 0, "n": "7"}),
        ([{"$truto_merge": "{{q:json}}"}], [{"x": 2, "y": {"q": 1}}]),
        ({"x": 0, "$truto_merge": "{{none:json}}"}, {"x": 0}),
        ({"x": 0, "$truto_merge": "{{none:json:undefined}}"}, {"x": 0}),
        ({"x": 0, "$truto_merge": "{{none:json:null}}"}, {"x": 0}),
        ({"x": 0, "$truto_merge": "{{q}}"}, {"x": 0}),
        ({"x": 0, "$truto_merge": "{{n:json}}"}, {"x": 0}),
        ({"x": 0, "$truto_merge": [1, "text", ["{{q:json}}"], "{{empty:json}}"]}, {"x": 0}),
        ({"$truto_merge": None}, {}),
    ],
)
def test_render__merge(template: object, rendered: object) -> None:
    scope: dict[str, Any] = {
        "o": {"b": {"c": [1], "d": 2}},
        "p": {"x": 1, "y": {"p": 1}},
        "q": {"x": 2, "y": {"q": 1}},
        "s": '{"s": 1}',
        "n": 7,
        "empty": {},
    }
    before = copy.deepcopy((template, scope))
    assert render(template, scope) == rendered
    assert (template, scope) == before


def nested(levels: int, innermost: object, wrap: Callable[[Any], object]) -> Any:
    for _ in range(levels):
        innermost = wrap(innermost)
    return innermost


@pytest.mark.parametrize("wrap", [lambda inner: [inner], lambda inner: {"a": inner}])
def test_render__too_deep__raises(wrap: Callable[[Any], object]) -> None:
    assert render(nested(MAX_DEPTH, "{{a}}", wrap), {"a": "x"}) == nested(MAX_DEPTH, "x", wrap)
    for levels in (MAX_DEPTH + 1, 100_000):
        template = nested(levels, "{{a}}", wrap)
        with pytest.raises(PlaceholderError, match="levels deep"):
            render(template, {"a": "x"})
        assert names(template) == {"a"}


def test_render__deep_value__passed_on_only() -> None:
    deep = nested(100_000, "x", lambda inner: {"a": inner})
    assert render("{{v:any}}", {"v": deep}) is deep
    assert render("{{v" + ".a" * 100_000 + "}}", {"v": deep}) == "x"
    for template in ("{{v}}", "<{{v:any}}>", {"$truto_merge": ["{{v:json}}", "{{v:json}}"]}):
        with pytest.raises(PlaceholderError, match="deep"):
            render(template, {"v": deep})


def test_render__not_json__raises() -> None:
    for value in (object(), {1, 2}, b"x", float("nan"), {"x": float("inf")}):
        assert render("{{v:any}}", {"v": value}) is value
        with pytest.raises(PlaceholderError, match="not JSON"):
            render("{{v}}", {"v": value})


@pytest.mark.parametrize(
    "template",
    [
        "{{v}}" * 5,
        "{{v}}" * 100_000,
        ["{{v}}-"] * 5,
        ["{{v:bool}}"] * 5,
        ["{{v:json}}"] * 5,
        ["{{list}}"] * 9,
        {"$truto_merge": ["{{o:json}}"] * 20},
        {"a": {}, "$truto_merge": ["{{wide:json}}"] * 20},
    ],
)
def test_render__result_too_large__raises(template: object) -> None:
    scope = {
        "v": "x" * (MAX_SIZE // 4),
        "list": ["x"] * (MAX_SIZE // 8),
        "o": {"a": [0] * (MAX_SIZE // 20)},
        "wide": {str(number): 0 for number in range(MAX_SIZE // 20)},
    }
    with pytest.raises(PlaceholderError, match="characters together"):
        render(template, scope)


def test_render__long_value() -> None:
    value = "ü\0{{" * (MAX_SIZE // 8)
    assert render(["{{v}}", "<{{v}}>"], {"v": value}) == [value, f"<{value}>"]
    assert render("{{" * 1_000_000, {}) == "{{" * 1_000_000
    assert render("{{" + "a" * 1_000_000, {}) == "{{" + "a" * 1_000_000


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("args.ids", ["a", "b", {"deep": 7}]),
        (" args.ids.2.deep ", 7),
        ("args", SCOPE["args"]),
        ("args.none", None),
        ("none", None),
        ("", None),
        ("args.ids.-1", None),
        ("{{args.ids}}", None),
        ("args.null", None),
    ],
)
def test_look_up__paths(path: str, value: object) -> None:
    assert look_up(path, SCOPE) == value


def test_names__paths_of_all_placeholders() -> None:
    template = {
        "a": "{{args.x}} {{ args.y : int |args.z?:no.path:str}}",
        "b": [1, None, ["{{resources.crm/model.contacts.0.id:undefined}}"]],
        "$truto_merge": ["{{previous_run_date:json}}"],
        "{{not.this}}": "{not.that} {{or.this'}}",
    }
    assert names(template) == {
        "args.x",
        "args.y",
        "args.z",
        "resources.crm/model.contacts.0.id",
        "previous_run_date",
    }
    assert names(7) == names("") == set()
