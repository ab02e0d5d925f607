from __future__ import annotations

from services.launcher.packages import CommandFailed, pip_settings, uv_environment

LISTING = """\
:env:.find-links='/opt/wheels /more'
global.cert='/etc/ssl/own.pem'
global.index-url='https://global.example/simple'
install.index-url='https://install.example/simple'
install.extra-index-url='https://a.example https://b.example'
"""


def test_pip_settings_follow_pips_precedence() -> None:
    """The environment wins over [install], and [install] over [global]."""
    settings = pip_settings(LISTING + ":env:.index-url='https://env.example/simple'\n")
    assert settings["index-url"] == "https://env.example/simple"
    assert pip_settings(LISTING)["index-url"] == "https://install.example/simple"


def test_uv_is_told_what_pip_knows() -> None:
    """Index, certificate and find-links of pip become uv's variables."""
    assert uv_environment(pip_settings(LISTING)) == {
        "SSL_CERT_FILE": "/etc/ssl/own.pem",
        "UV_DEFAULT_INDEX": "https://install.example/simple",
        "UV_FIND_LINKS": "/opt/wheels,/more",
        "UV_INDEX": "https://a.example https://b.example",
        "UV_INDEX_STRATEGY": "unsafe-best-match",
    }


def test_known_failures_are_explained() -> None:
    """What a tool printed about a full disk becomes one line; the unknown is cited."""
    full = CommandFailed("pip", "ERROR: [Errno 28] No space left on device\n")
    assert full.in_one_line() == "the disk is full: free some space, then run this again"
    assert CommandFailed("pip", "a\nodd\n").in_one_line() == "pip: odd"


def test_a_listing_that_is_none_tells_nothing() -> None:
    """What pip says otherwise one day must not stop the set-up."""
    assert {} == pip_settings("global.proxy='\nglobal.cert=" + "(" * 5000 + "\n=\nx\n")
