"""Prints expressions with what jinja2, set up as transformers does for chat templates,
makes of them, as expressions.json. An expression that fails there has "fails".

    pip install jinja2==3.1.6     # under Python 3.11 or newer
    python expressions.py > ../expressions.json
"""
import json

import jinja2
import jinja2.ext
from jinja2.sandbox import ImmutableSandboxedEnvironment


def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def raise_exception(message):
    raise jinja2.exceptions.TemplateError(message)


env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols])
env.filters["tojson"] = tojson
env.globals["raise_exception"] = raise_exception

VARS = {
    "n": None, "i": 7, "f": 2.5, "t": True, "l": [3, 1, 2], "s": "abc", "e": "", "w": "  Foo bar  baz ", "u": "straße ﬁx ŉ ǆ ΌΣΟΣ İi",
    "p": "one two  three,four", "m": "a\nb\n\n  c\r\nd", "d": {"b": 1, "a": [1, 2.5, None, True, "x'y"], "ä": "é<&>'\"\u2028\U0001f999"},
}

groups = {}
groups["round"] = [f"{x} | round{a}" for x in ["3", "2.5", "3.5", "-2.5", "0.5", "2.675", "1.005", "1234.5678", "-7", "1e300", "true", "25", "-1.5", "0.1", "1e16"]
                   for a in ["", "(1)", "(2)", "(-1)", "(0, 'ceil')", "(0, 'floor')", "(1, 'ceil')", "(2, 'floor')"]]
groups["round"] += ["'3' | round", "n | round", "3.7 | round | int", "2.5 | round(method='ceil')", "2.44 | round(precision=1, method='floor')", "2 | round(1, 'up')", "(2.4 | round) is float", "(2 | round) is integer",
                    "2.5 | round | string", "(10 / 3) | round(2)", "5 | round(2)", "1e22 | round(2)", "0.000012345 | round(7)", "nope | round"]
texts = ["'straße'", "u", "'ǆabc ǅ'", "'ﬁx ﬀ'", "'ŉ'", "'ΌΣΟΣ ΣΑΣ'", "'İstanbul'", "\"they're bill's friends\"", "'hello-world (foo) [bar] {baz} <x>'", "'éCOLE ñandú'", "'ß'", "'x1y2 3z'", "''", "'ΣΑΣ.'", "'ﬃ'", "'ΐ'", "'ᾳ ᾼ'"]
groups["case"] = [f"{x}{f}" for x in texts for f in [" | upper", ".upper()", " | lower", ".lower()", " | title", ".title()", " | capitalize", ".capitalize()", ".swapcase()", ".casefold()", ".isupper()", ".islower()", ".istitle()"]]
groups["case"] += ["'ABC' is upper", "'abc1' is lower", "'1' is upper", "'ǅ' is upper", "'ª'.islower()", "'Ⅷ'.isupper()", "'ⅷ' is lower"]
groups["classes"] = [f"{x!r}.{f}()" for x in ["12", "²", "½", "Ⅷ", "٣", "a1", "é", "ä b", "一", " \t\n", "\u00a0", "_a", "1a", "", "\x1f", "a\u0301"] for f in ["isdigit", "isdecimal", "isnumeric", "isalpha", "isalnum", "isspace", "isidentifier", "isascii", "isprintable"]]
groups["strip"] = ["w.strip()", "w.lstrip()", "w.rstrip()", "w | trim", "'xxabcxx'.strip('x')", "'xyabcyx'.strip('xy')", "'abc'.lstrip('ab')", "'abc'.rstrip('bc')", "'--a--' | trim('-')", "'\\u00a0a\\u3000'.strip()", "'\\x1ca\\x1f'.strip()", "'abc'.strip(none)", "'\\u200ba'.strip()",
                   "'abc'.strip('')", "12 | trim", "none | trim", "'abcabc'.removeprefix('abc')", "'abcabc'.removesuffix('abc')", "'a'.removesuffix('')"]
groups["split"] = ["p.split()", "p.split(' ')", "p.split(',')", "p.split(none, 1)", "p.split(' ', 1)", "p.split(maxsplit=1)", "p.split(sep=' ', maxsplit=2)", "p.rsplit(' ', 1)", "p.rsplit(none, 1)", "p.rsplit(maxsplit=0)", "w.split()", "w.split(none, 0)", "w.split(' ', -1)", "''.split()", "''.split(',')",
                   "'a,b'.split('')", "'a<>b<>c'.split('<>')[-1]", "'abc'.split('abc')", "m.splitlines()", "m.splitlines(true)", "''.splitlines()", "'a\\x0bb\\u2028c'.splitlines()", "'a=b=c'.partition('=')", "'a=b=c'.rpartition('=')", "'abc'.partition('=')", "'abc'.rpartition('=')", "'abc'.partition('')",
                   "p.split()|join('|')", "'a b'.split()|last", "'1,2,3'.split(',')|map('int')|sum", "'a,b'.split(',').index('b')"]
groups["find"] = ["'banana'.find('an')", "'banana'.rfind('an')", "'banana'.find('an', 2)", "'banana'.find('an', 2, 4)", "'banana'.rfind('an', 0, 3)", "'banana'.find('x')", "'banana'.index('x')", "'banana'.index('n')", "'banana'.rindex('n')", "'banana'.find('')", "'banana'.find('', 9)", "'banana'.find('a', -1)", "'banana'.find('a', -3, -1)",
                  "'äöü'.find('ü')", "'banana'.count('an')", "'banana'.count('a', 2)", "'banana'.count('a', 1, 3)", "'banana'.count('')", "'äö'.count('')", "'banana'.startswith('ba')", "'banana'.startswith(('x', 'ban'))", "'banana'.startswith('na', 2)", "'banana'.startswith('na', 2, 3)", "'banana'.endswith('na')",
                  "'banana'.endswith(('x', 'na'))", "'banana'.endswith('n', 0, 3)", "'banana'.startswith('')", "'banana'.startswith('', 9)", "'an' in 'banana'", "'' in 'a'", "1 in 'a1'", "'banana'.startswith(['b'])"]
groups["replace"] = ["'aaa'.replace('a', 'b')", "'aaa'.replace('a', 'b', 2)", "'aaa'.replace('a', 'b', 0)", "'aaa'.replace('a', 'b', -1)", "'abc'.replace('', '-')", "'abc'.replace('', '-', 2)", "'aaa' | replace('a', 'b')", "'aaa' | replace('a', 'b', 1)", "'aaa' | replace('a', 'b', count=2)", "12.5 | replace('.', ',')", "'a' | replace('a', 1)",
                     "'äöä' | replace('ä', 'ae', 1)", "'a'.replace('a')", "''.replace('', 'x')"]
groups["pad"] = ["'abc'.center(10)", "'abc'.center(9, '*')", "'abcd'.center(9, '*')", "'abc'.center(8, '*')", "'abc' | center", "'abc' | center(7)", "'abc' | center(width=8)", "'abc'.ljust(6, '.')", "'abc'.rjust(6, '.')", "'äb'.ljust(4, 'é')", "'42'.zfill(5)", "'-42'.zfill(5)", "'+4'.zfill(1)", "'abc'.zfill(5)", "'abc'.center(2)", "'a'.ljust(3, '')", "'a'.ljust(3, 'xy')",
                 "'a\\tb'.expandtabs()", "'a\\tb'.expandtabs(4)", "'a'.zfill(-1)"]
groups["indent"] = ["m | indent", "m | indent(2)", "m | indent(2, true)", "m | indent(2, false, true)", "m | indent('> ')", "m | indent('> ', true, true)", "m | indent(width=1, first=true, blank=true)", "'' | indent", "'' | indent(2, true)", "'a' | indent(2, first=true)", "'a\\n' | indent(2)", "'a\\n\\nb' | indent(2)", "'a\\n  \\nb' | indent(2)", "'\\na' | indent(2, true)", "'a\\x0bb\\u2028c' | indent(2)", "'a\\r\\nb' | indent(2)", "5 | indent"]
long = "'The quick brown fox jumps over the lazy dog. Supercalifragilisticexpialidocious!'"
groups["wrap"] = [f"{long} | wordwrap", f"{long} | wordwrap(20)", f"{long} | wordwrap(20, false)", f"{long} | wordwrap(20, wrapstring='|')", f"{long} | wordwrap(10, true, '|')", "'a-b c-d-e-f' | wordwrap(4)", "'a-b c-d-e-f' | wordwrap(4, break_on_hyphens=false)", "'one\\ntwo three' | wordwrap(5)", "'a  b   c' | wordwrap(3)", "'' | wordwrap(5)", "'  lead' | wordwrap(4)",
                  f"{long} | truncate(20)", f"{long} | truncate(20, true)", f"{long} | truncate(20, false, '~')", f"{long} | truncate(75)", f"{long} | truncate(20, leeway=0)", "'foo bar baz qux' | truncate(9)", "'foo bar baz qux' | truncate(9, True)", "'foo bar baz qux' | truncate(11)", "'foo bar baz qux' | truncate(11, False, '...', 0)", "'abc' | truncate(2)", "'abcdefghijk' | truncate(5, end='')",
                  "'a b_c 1-2 é' | wordcount", "'' | wordcount", "\"don't\" | wordcount", "'a' | wordcount"]
groups["numbers"] = [f"{x} | {f}" for x in ["'42'", "'-42'", "'+7'", "' 42 '", "'4_2'", "'_42'", "'4__2'", "'42.9'", "'-42.9'", "'1e3'", "'0x1f'", "'abc'", "''", "none", "true", "3.99", "-3.99", "[1]", "'٣'", "'inf'", "'nan'", "'1e400'", "'12_3.5'", "'.5'", "'5.'", "'0b11'", "'1,5'", "'0x1p3'", "'infinity'", "1e30"]
                     for f in ["int", "int(9)", "int(default=none)", "float", "float(1.5)"]]
groups["numbers"] += ["'1f' | int(0, 16)", "'0x1f' | int(0, 16)", "'0X1F' | int(base=16)", "'11' | int(0, 2)", "'0b11' | int(0, 2)", "'0o17' | int(0, 8)", "'z' | int(0, 36)", "'9' | int(5, 8)", "'0x1f' | int(0, 0)", "'10' | int(0, 1)", "15 | int(0, 16)", "3.5 | abs", "-3 | abs", "true | abs", "'-3' | abs", "[3.5, 2] | sum", "[] | sum", "[1, 2] | sum(start=10)", "1_000 + 1"]
groups["arithmetic"] = [f"{a} {op} {b}" for op in ["//", "%", "/", "*", "-", "**"] for a, b in [("7", "2"), ("-7", "2"), ("7", "-2"), ("-7", "-2"), ("7.5", "2"), ("-7.5", "2"), ("7", "2.5"), ("7", "-2.5"), ("0", "3"), ("5", "0"), ("5.0", "0.0"), ("true", "2"), ("1e16", "3"), ("1", "0.5")]]
groups["arithmetic"] += ["2 ** 3 ** 2", "-2 ** 2", "(-2) ** 3", "2 ** -1", "2 ** 0.5", "0 ** 0", "(-8) ** 2", "-1 % 0.5", "1 % -0.5", "-1 // 0.5", "1 // 0.1", "1 % 0.1", "0.0 // -1", "0 ** -1", "(1 / 3) ** 0.5", "10.0 ** 400", "0.3 // 0.1", "2 ** 62", "2 ** 63", "2 ** 64", "9223372036854775807 + 1", "-9223372036854775808 - 1", "3000000000 * 4000000000", "123456789012345678901234567890", "10 // 3 * 3 + 10 % 3", "7 % 3 == 1", "-7 // 2 * 2", "1 / 3", "1e-5", "1e16", "123456789.123", "1.0", "5e-324", "1e15 + 0.5", "0.1 + 0.2", "100.0 * 3",
                         "'a' * 3", "3 * 'a'", "'a' * -1", "[1] * 2", "'a' + 1", "'a' + 'b' * 2", "[1] + [2]", "(1,) + (2,)", "'a' ~ 1 ~ none ~ true ~ 1.0", "not 1 + 1", "1 < 2 < 3", "3 > 2 > 2", "1 == 1.0", "true == 1", "'1' == 1", "'a' < 'b'", "[1, 2] < [1, 3]", "'a' < 1", "none < 1", "-i", "+i", "- -i", "1 if none else 2", "n is none", "i is divisibleby 7", "i is odd", "1e3 | int", "inf", "9007199254740993 == 9007199254740992.0", "2 * 0.1", "1e22", "1e21 + 1", "-0.0", "0.0 * -1"]
groups["slices"] = [f"{x}[{k}]" for x in ["'abcdef'", "[0, 1, 2, 3, 4, 5]", "(0, 1, 2)", "'äöü🦙'"] for k in ["0", "-1", "1:3", "::-1", "::2", "-1:-4:-1", ":-1", "5:", "9:", ":9", "-9:2", "4:1", "4:1:-1", "4:1:-2", ":2:-1", "3::-1", "-2:", "::-2", "1:-1:2", "0:0", "none:2", "99", "-99", "::0"]]
groups["slices"] += ["'abc'[1.0]", "'abc'['a']", "l[true]", "'abc'.0", "l.0", "l[-1:]", "d['b']", "d.b", "d['nope']", "d['nope'] is defined", "d.nope.x", "l[1:] + l[:1]", "'abc'[::-1] | upper", "m[1:-1] | length", "d['a'][-1]", "(1, 2, 3)[1:]"]
groups["tojson"] = ["d | tojson", "d | tojson(indent=2)", "d | tojson(indent=4)", "d | tojson(indent=0)", "d | tojson(indent='\\t')", "d | tojson(ensure_ascii=true)", "d | tojson(true)", "d | tojson(sort_keys=true)", "d | tojson(separators=(',', ':'))", "d | tojson(separators=(', ', ' = '), indent=1)", "l | tojson", "n | tojson", "t | tojson", "f | tojson", "'a\"b\\\\c/\\n\\t\\x08\\x0c\\x1f\\x7f\\u2028é🦙' | tojson",
                    "'é🦙\\x7f' | tojson(ensure_ascii=true)", "[] | tojson(indent=2)", "{} | tojson(indent=2)", "[[], {}] | tojson(indent=2)", "{1: 2, 1.5: 3, true: 4, none: 5} | tojson", "{'b': 1, 'a': {'d': 1, 'c': 2}} | tojson(sort_keys=true)", "(1, 2) | tojson", "1e16 | tojson", "1.0 | tojson", "1e-7 | tojson", "'<>&\\'' | tojson", "nope | tojson", "{'a': 1} | tojson(none, 2)", "{'a': [1, 2]} | tojson(false, 2, (',', ': '))", "'a' | tojson(indent=none)",
                    "[1, [2, [3]]] | tojson(indent=1)", "{2: 1, 'a': 2} | tojson(sort_keys=true)", "(2 ** 70) | tojson", "{'a': range} | tojson", "true | tojson", "'x' | tojson | tojson", "[1, 2] | tojson(indent=2, separators=(',', ':'))", "-0.0 | tojson", "0.1 | tojson"]
groups["format"] = ["'%s' % 'a'", "'%s %s' % ('a', 1)", "'%d' % 3.7", "'%5d|%-5d|%05d' % (42, 42, 42)", "'%+d % d' % (4, 4)", "'%x %X %o' % (255, 255, 8)", "'%#x %#o' % (255, 8)", "'%.2f' % 2.675", "'%8.3f|' % 3.14159", "'%-8.3f|' % 3.14159", "'%e' % 12345.678", "'%E' % 0.00012", "'%g %g %g' % (1e10, 0.0001, 100000.0)", "'%G' % 1e-10", "'%c%c' % ('a', 98)", "'%r' % 'a'", "'%a' % 'é'", "'%%' % ()", "'%s' % none", "'%s' % true", "'%s' % [1]",
                    "'%(a)s' % {'a': 1}", "'%(a)5.1f|' % {'a': 2.25}", "'%s' % ('a', 'b')", "'%s %s' % 'a'", "'%d' % 'a'", "'%5s|%-5s|%.2s' % ('ab', 'ab', 'abc')", "'%*d' % (5, 42)", "'%i %u' % (1, 2)", "'abc' % ()", "'%s' % ('é',)", "'%.0f' % 2.5", "'%.1f' % 0.25", "'%f' % 1e20", "'%05.1f' % -2.5", "'%d' % -7", "'%x' % -255", "'%s' | format('a')", "'%s-%d' | format('a', 3)", "'%(a)s' | format(a=1)",
                    "'{}'.format(1)", "'{} {}'.format('a', 2)", "'{1} {0}'.format('a', 'b')", "'{a}'.format(a=1)", "'{:5}|{:<5}|{:>5}|{:^5}|'.format('a', 'b', 'c', 'd')", "'{:5}|{:<5}|{:>5}|{:^5}|'.format(1, 2, 3, 4)", "'{:*^9}'.format('mid')", "'{:05d}'.format(42)", "'{:+d}'.format(42)", "'{:,}'.format(1234567)", "'{:_}'.format(1234567)", "'{:.2f}'.format(3.14159)", "'{:10.2f}|'.format(3.14159)", "'{:x} {:X} {:o} {:b} {:#x}'.format(255, 255, 8, 5, 255)",
                    "'{:e}'.format(12345.678)", "'{:.1%}'.format(0.256)", "'{:g}'.format(1e10)", "'{!r}'.format('a')", "'{!s:>4}'.format('a')", "'{0[1]}'.format([1, 2])", "'{a[b]}'.format(a={'b': 3})", "'{{}}'.format()", "'{}'.format()", "'{0} {}'.format(1, 2)", "'{:d}'.format('a')", "'{:s}'.format(1)", "'{:.3}'.format('abcdef')", "'{:>{}}'.format('a', 4)", "'{'.format()", "'}'.format()", "'{:c}'.format(97)", "'{:,.2f}'.format(1234567.891)", "'{:<8}|'.format(none)", "'{}'.format(none)", "'{:.3}'.format(3.14159)", "'{:5}|'.format(2.0)", "'{}'.format(2.0)", "'{:}'.format(true)", "'{:d}'.format(true)"]
groups["lists"] = ["l | sort", "l | sort(reverse=true)", "['b', 'A', 'c'] | sort", "['b', 'A', 'c'] | sort(case_sensitive=true)", "[1, 'a'] | sort", "l | min", "l | max", "[] | max", "['a', 'B'] | max", "l | first", "l | last", "[] | first", "l | reverse | list", "'abc' | reverse", "l | join", "l | join('-')", "[none, true, 1.0] | join(',')", "l | length", "d | length", "'äö' | length", "5 | length", "l | batch(2) | list", "l | batch(2, 0) | list", "l | slice(2) | list", "[1, 2, 3, 4, 5] | slice(3, 'x') | list",
                   "['a', 'b', 'A'] | unique | list", "['a', 'b', 'A'] | unique(true) | list", "[1, 2, 3, 4] | select('odd') | list", "[1, 2, 3] | reject('equalto', 2) | list", "[1, 0, none, ''] | select | list", "['a', 'b'] | map('upper') | list", "[1, 2] | map('string') | join", "[{'a': 1}, {'a': 2}] | map(attribute='a') | list", "[{'a': 1}, {}] | map(attribute='a', default=9) | list", "[{'a': 1}, {'a': 2}] | selectattr('a', 'gt', 1) | list", "[{'a': {'b': 1}}] | map(attribute='a.b') | list", "d | dictsort", "{'b': 1, 'A': 2} | dictsort", "{'b': 1, 'A': 2} | dictsort(true)", "{'a': 2, 'b': 1} | dictsort(false, 'value')", "d | list", "d.items() | list", "d.keys() | list", "d | items | list",
                   "[[1, 2], [3]] | sum(start=[])", "[1, 2, 3] | random is integer", "[{'k': 'a', 'v': 1}, {'k': 'b', 'v': 2}, {'k': 'a', 'v': 3}] | groupby('k') | list", "'a,b' | list", "l.index(1)", "l.count(1)", "l.append(4)", "(1, 2) | list", "range(5, 0, -2) | list", "l | string", "d.values() | list | length", "dict(a=1, b=2)", "[1, [2, (3,)], {'a': none}] | string", "l is sequence", "d is mapping", "'a' is iterable", "l in [l]", "not l", "[] or 'x'", "0 and 1", "'a' and 'b'", "l | default('x')", "nope | default('x')", "'' | default('x', true)", "none | default('x')", "l == [3, 1, 2]", "[1] != [1.0]", "(1, 2) == [1, 2]", "{'a': 1} == {'a': 1.0}",
                   "'a\"b' | string", "['a\"b', \"c'd\", 'e\\n\\t\\\\é\\x00\\u200b'] | string", "'<a href=\"x\">\\'&' | escape", "'<a>' | e", "'a b/c?d=é&~' | urlencode", "{'a b': 1, 'c': 'ü'} | urlencode", "[('a', 1), ('b', '&')] | urlencode", "'<p>Hi  <b>you</b></p>' | striptags", "1000000 | filesizeformat", "1024 | filesizeformat(true)", "'a' | pprint", "'http://a.b c' | urlize", "'x' | attr('upper')", "{'a': 1} | xmlattr", "'a' | safe", "'<' | forceescape", "[1, 2] | tojson | length", "namespace(a=1).a", "cycler('a', 'b').next()", "joiner('-')()"]
groups["undefined keys"] = ["d[nope] is defined", "nope in d", "d.get(nope)", "{nope: 1}[nada]", "nope in l", "{nope: 1, nada: 2} | length", "nope == nada", "d[none] is defined", "{none: 1}[nope] is defined"]

out = []
for group in groups.values():
    for x in group:
        case = {"template": "{{ " + x + " }}"}
        try:
            case["want"] = env.from_string(case["template"]).render(**VARS)
        except Exception as err:
            case["fails"] = True
        if case not in out and " object at 0x" not in case.get("want", ""):
            out.append(case)
print('{"vars": ' + json.dumps(VARS) + ', "cases": [\n' + ",\n".join(json.dumps(c) for c in out) + "\n]}")
