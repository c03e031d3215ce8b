"""Lines of the log."""

import json
import logging
import subprocess
import sys

from ups_server.processes import REQUEST_ID, JsonLines, RequestIds, TextLines


def record(message: str, **extra: object) -> logging.LogRecord:
    made = logging.getLogger("ups_server.test").makeRecord(
        "ups_server.test", logging.WARNING, "file.py", 1, message, (), None, extra=extra
    )
    RequestIds().filter(made)
    return made


def test_a_json_line_holds_what_the_record_brings() -> None:
    token = REQUEST_ID.set("abc")
    try:
        line = json.loads(JsonLines("api").format(record("two\nlines", status=200, key=None)))
    finally:
        REQUEST_ID.reset(token)
    assert line.pop("at").endswith("+00:00")
    assert line == {
        "level": "warning",
        "process": "api",
        "logger": "ups_server.test",
        "message": "two\nlines",
        "status": 200,
        "request_id": "abc",
    }


def test_a_json_line_is_one_line_with_its_error() -> None:
    try:
        raise ValueError("broken")
    except ValueError:
        made = record("failed")
        made.exc_info = sys.exc_info()
    text = JsonLines("api").format(made)
    assert "\n" not in text
    assert "ValueError: broken" in json.loads(text)["error"]


def test_a_line_for_a_person() -> None:
    assert TextLines("worker").format(record("ready")).endswith("WARNING worker ups_server.test: ready")


def test_configured_once_for_a_process() -> None:
    program = (
        "import logging; from ups_server.processes import configure_logs; configure_logs('info', 'json', 'engine');"
        "logging.getLogger('x').debug('no'); logging.getLogger('x').info('yes')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    (line,) = done.stderr.splitlines()
    assert (json.loads(line)["message"], json.loads(line)["process"]) == ("yes", "engine")
