"""Broken inputs without end: good ones, changed at random, must be read or be refused in words.

```bash
python -m tests.fuzz --seconds 300          # all targets
python -m tests.fuzz --seconds 60 rows      # one of them
```

pytest collects none of this. A target is a module of this folder with two functions:

- `inputs()` gives good inputs, name of a file -> its bytes;
- `read(path)` reads such a file and raises nothing but `EXPECTED` of the module, ValueError if it has none.

`changed(draw, good)`, if the module has it, gives one input in place of `mutated`, for what has a structure of its own.
"""

import json
import random
from collections.abc import Mapping, Sequence
from typing import Any

ODD_BYTES = [
    *(bytes([byte]) for byte in b"\x00\n\r\t\x1b\"'\\,;[]{}:\x7f\xff\xfe\x80"),
    *(b"\xef\xbb\xbf", b"\xff\xfe", b"\r\n", b'""', b"NaN", b"-Infinity", b"null", b"1e999", b"9" * 5000, b"\\ud800"),
    *(b"\xed\xa0\x80", b"\xe2\x80\xa8", b"[" * 2000, b'{"a":' * 2000, b"PAR1"),
]
ODD_VALUES: list[Any] = [
    *(None, True, False, 0, -1, 1, 2**63, 10**400, 0.5, -0.0, 1e308, float("nan"), float("inf")),
    *("", " ", "0", "000", "1.50", "NaN", "null", "true", "2024-01-01", "a\x00b", "\ud800", "\x1b[31m", "x" * 100_000),
    *([], {}, [None], [[]], {"": None}, [{}], ["a", 1], {"role": "user"}, [{"role": "user", "content": 1}]),
]


def mutated(draw: random.Random, good: bytes, other: bytes = b"") -> bytes:
    """Bytes with a few changes: bits, cuts, repeats, odd pieces, and pieces of another input."""
    data = bytearray(good)
    for _ in range(draw.choice((1, 1, 1, 2, 3, 8))):
        start = draw.randrange(len(data) + 1)
        end = min(len(data), start + draw.choice((1, 1, 2, 8, 64, len(data))))
        match draw.randrange(7):
            case 0 if start < len(data):
                data[start] ^= 1 << draw.randrange(8)
            case 1:
                del data[start:end]
            case 2:
                data[start:start] = data[start:end]
            case 3:
                del data[start:]
            case 4:
                data[start:start] = draw.choice(ODD_BYTES)
            case 5:
                data[start:end] = draw.choice(ODD_BYTES)
            case _ if other:
                data[start:end] = other[draw.randrange(len(other)) :][: end - start]
    return bytes(data)


def mutated_value(draw: random.Random, value: Any) -> Any:
    """Change a JSON value in one place: another value there, a key renamed, an entry gone or twice."""
    if isinstance(value, Mapping) and value and draw.random() < 0.9:
        items = list(value.items())
        place = draw.randrange(len(items))
        name, cell = items[place]
        match draw.randrange(8):
            case 0:
                del items[place]
            case 1:
                items.append((draw.choice(["", "a\x1b", "label", "weight", "margin", "messages", "winner"]), cell))
            case 2:
                items[place] = (draw.choice(items)[0], cell)
            case _:
                items[place] = (name, mutated_value(draw, cell))
        return dict(items)
    if isinstance(value, Sequence) and not isinstance(value, str) and value and draw.random() < 0.8:
        place = draw.randrange(len(value))
        return draw.choice(
            [
                [*value[:place], *value[place + 1 :]],
                [*value[:place], value[place], *value[place:]],
                [*value[:place], mutated_value(draw, value[place]), *value[place + 1 :]],
                [*value[:place], mutated_value(draw, value[place]), *value[place + 1 :]],
            ]
        )
    return json.loads(json.dumps(draw.choice(ODD_VALUES)))
