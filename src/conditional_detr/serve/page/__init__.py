"""The page at `/`: one file with its style and script in it, which loads nothing from elsewhere."""

from __future__ import annotations

import base64
import hashlib
from importlib.resources import files


def _hash(text: str) -> str:
    return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii") + "'"


_STYLE, _DRAWING, _CONTROLS, _BODY = (
    files(__name__).joinpath(name).read_text(encoding="utf-8")
    for name in ("page.css", "draw.js", "page.js", "page.html")
)
_SCRIPT = _DRAWING + _CONTROLS
_PAGE = _BODY.replace("/* page.css */", _STYLE).replace("/* page.js */", _SCRIPT)

# The style and the script above alone, pictures that the page itself has made, and this server.
CONTENT_SECURITY_POLICY = (
    f"default-src 'none'; style-src {_hash(_STYLE)}; script-src {_hash(_SCRIPT)}; img-src blob: data:; media-src blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def page() -> str:
    return _PAGE
