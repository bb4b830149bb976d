"""README.md and docs/*.md are run: every ``python`` and ``pycon`` block, against real servers.

The blocks of one page run in order and share their names. An HTML comment in front of a block
says how it runs; without one it is run as Python::

    <!-- run: settings -->    Django settings: applied to the rest of the page, checked by the
                              system checks, and each of our storages in them lists its root
    <!-- run: module a.b -->  a module of the reader's project, which settings may name
    <!-- run: pytest -->      a test module of the reader's: run by pytest, must pass
    <!-- run: no, REASON -->  not run, and why

``<!-- run: setup`` with code on the lines below, up to ``-->``, runs code that readers do not see.
Hosts under example.com are replaced by servers of ``netstorage.testing``, one for each host name:
in option dicts and in ``SFTPStorage(...)``, ``WebDAVStorage(...)``, ``dict(...)``. What a block
defines must be used somewhere on the page: a function that nobody calls proves nothing.
"""

import ast
import contextlib
import doctest
import os
import re
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from urllib.parse import urlsplit
from weakref import WeakValueDictionary

import pytest
from django.conf import settings
from django.core.checks import run_checks
from django.core.exceptions import ImproperlyConfigured
from django.core.files.storage import storages
from django.db import connection
from django.test.utils import isolate_apps, override_settings

import netstorage
from netstorage import pool as pools
from netstorage import testing

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]

TOKEN = re.compile(
    r"^ *<!-- run: (?P<how>\w+)(?P<rest>.*?)-->[ \t]*$"
    r"|^(?P<indent> *)(?P<ticks>`{3,})(?P<info>[^`\n]*)\n(?P<code>.*?)^ *(?P=ticks)[ \t]*$",
    re.MULTILINE | re.DOTALL,
)
SFTP = "host port username password key_filename private_key passphrase known_hosts host_key"
WEBDAV = "url username password auth token verify cert proxy"
CONNECTION = {"host": SFTP.split(), "url": WEBDAV.split()}  # what a server of ours decides


@dataclass
class Block:
    how: str
    line: int
    code: str
    rest: str = ""


def read_blocks(text):
    """Find the blocks of a page, and refuse what would silently not be run."""
    how, rest, end = None, "", 0
    for token in TOKEN.finditer(text):
        line = text.count("\n", 0, token.start()) + 1
        if how is not None:
            assert not text[end : token.start()].strip(), f"line {line}: 'run: {how}' has no block"
        if token["how"]:
            assert how is None, f"line {line}: two comments for one block"
            how, rest, end = token["how"], token["rest"], token.end()
            if how == "setup":
                yield Block("python", line, textwrap.dedent(rest))
                how = None
            continue
        language = token["info"].strip()
        if language in {"python", "pycon"}:
            ways = ("python", "settings", "module", "pytest", "no")
            known = ways if language == "python" else ("no",)
            assert how in (None, *known), f"line {line}: what is 'run: {how}'?"
            assert how != "no" or len(rest.strip(" ,\n")) > 5, f"line {line}: not run, but why?"
            if how != "no":
                code = textwrap.dedent(token["code"])
                yield Block(how or language, line + 1, code, rest.strip())
        else:
            assert "py" not in language, f"line {line}: write ```python or ```pycon: {language}"
            assert how is None, f"line {line}: 'run: {how}' before a block that is not Python"
        how = None
    assert how is None, f"'run: {how}' has no block"


class Page(ast.NodeTransformer):
    """One page's names, servers and settings while its blocks run."""

    def __init__(self, path, folder, stack):
        self.path, self.folder, self.stack = path, folder, stack
        self.servers = {}
        self.defined, self.used = {}, set()
        self.names = {
            "__name__": "netstorage.page",  # where a model belongs to an installed app
            "BASE_DIR": folder,
            "INSTALLED_APPS": list(settings.INSTALLED_APPS),
            "create_table": self.create_table,
        }

    def run(self):
        for block in read_blocks(self.path.read_text()):
            getattr(self, f"run_{block.how}")(block)
        idle = {name: line for name, line in self.defined.items() if name not in self.used}
        assert not idle, f"defined, but used nowhere on the page (name: line): {idle}"

    def parse(self, code, line):
        tree = self.visit(ast.parse(code))
        assert tree.body, f"line {line}: a block without code"
        names = [node for node in ast.walk(tree) if isinstance(node, ast.Name)]
        self.used |= {name.id for name in names if isinstance(name.ctx, ast.Load)}
        return ast.fix_missing_locations(ast.increment_lineno(tree, line - 1))

    def run_python(self, block):
        tree = self.parse(block.code, block.line)
        for node in tree.body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                self.defined[node.name] = node.lineno
        exec(compile(tree, str(self.path), "exec"), self.names)

    def run_module(self, block):
        self.run_python(block)
        module = sys.modules[block.rest] = ModuleType(block.rest)
        self.stack.callback(sys.modules.pop, block.rest)
        vars(module).update(self.names)

    def run_settings(self, block):
        self.run_python(block)
        words = set(re.findall(r"\b[A-Z][A-Z0-9_]+\b", block.code)) - {"BASE_DIR"}
        values = {word: self.names[word] for word in words if word in self.names}
        assert values, f"line {block.line}: settings are written in capitals"
        if "INSTALLED_APPS" in values:
            apps = [*settings.INSTALLED_APPS, *values["INSTALLED_APPS"]]
            values["INSTALLED_APPS"] = [app for app in dict.fromkeys(apps) if app is not ...]
        # A reader's project has this from `startproject`; staticfiles' storage wants it.
        values.setdefault("STATIC_URL", "static/")
        self.stack.enter_context(override_settings(**values))
        ours = [storages[name] for name in values.get("STORAGES", ())]
        if "host" in values.get("NETSTORAGE_SFTP", ()):
            ours.append(netstorage.SFTPStorage())
        if "url" in values.get("NETSTORAGE_WEBDAV", ()):
            ours.append(netstorage.WebDAVStorage())
        for storage in ours:
            if type(storage).__module__.startswith("netstorage."):
                storage.listdir("")
        messages = [message for message in run_checks() if message.id.startswith("netstorage.")]
        assert not messages, f"line {block.line}: {messages}"

    def run_pycon(self, block):
        test = doctest.DocTestParser().get_doctest(
            block.code, {}, self.path.name, str(self.path), block.line - 1
        )
        assert test.examples, f"line {block.line}: no >>> in it"
        for example in test.examples:
            example.source = ast.unparse(self.parse(example.source, block.line)) + "\n"
        test.globs, output = self.names, []
        runner = doctest.DocTestRunner(
            verbose=False, optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
        )
        runner.run(test, out=output.append, clear_globs=False)
        assert not runner.failures, "".join(output)

    def run_pytest(self, block):
        module = self.folder / f"test_line_{block.line}.py"
        module.write_text(ast.unparse(self.parse(block.code, block.line)))
        options = ["-c", os.devnull, "--rootdir", self.folder, "-p", "no:cacheprovider"]
        done = subprocess.run(
            [sys.executable, "-m", "pytest", *options, module],
            cwd=ROOT, capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr

    def create_table(self, *models):
        """For setup comments: the tables of a page's models, until the page ends."""
        for model in models:
            with connection.schema_editor() as editor:
                editor.create_model(model)
            self.stack.callback(self.drop_table, model)

    def drop_table(self, model):
        with connection.schema_editor() as editor:
            editor.delete_model(model)

    # From here on: servers of ours in place of those under example.com.

    def visit_Dict(self, node):
        self.generic_visit(node)
        if all(isinstance(key, ast.Constant) for key in node.keys if key is not None):
            names = [key and key.value for key in node.keys]
            pairs = self.replace(zip(names, node.values, strict=True))
            node.keys = [name and ast.Constant(name) for name, _ in pairs]
            node.values = [value for _, value in pairs]
        return node

    def visit_Call(self, node):
        self.generic_visit(node)
        called = node.func.attr if isinstance(node.func, ast.Attribute) else ast.unparse(node.func)
        if called in {"SFTPStorage", "WebDAVStorage", "dict"}:
            pairs = self.replace((word.arg, word.value) for word in node.keywords)
            node.keywords = [ast.keyword(name, value) for name, value in pairs]
        return node

    def replace(self, pairs):
        """Point options at our server, when they name a host under example.com."""
        pairs = list(pairs)
        options = {name: value for name, value in pairs if isinstance(value, ast.Constant)}
        for key, decided in CONNECTION.items():
            host = options[key].value if key in options else ""
            host = urlsplit(host).hostname if key == "url" else host
            if not str(host).endswith("example.com"):
                continue
            server = self.server(key, host)
            if "location" in options:  # a folder that is there, as the reader's is
                folder = server.root / options["location"].value.strip("/")
                folder.mkdir(parents=True, exist_ok=True)
            ours = [(k, ast.parse(repr(v), mode="eval").body) for k, v in server.options.items()]
            return [*ours, *((name, value) for name, value in pairs if name not in decided)]
        return pairs

    def server(self, key, host):
        """Start the server that stands for a host, once for a page."""
        if (key, host) not in self.servers:
            server = testing.SFTPServer() if key == "host" else testing.WebDAVServer()
            self.servers[key, host] = self.stack.enter_context(server)
            self.stack.callback(lambda: [pool.drain() for pool in pools.all_pools()])
        return self.servers[key, host]


@pytest.fixture
def run_page(tmp_path, transactional_db, monkeypatch):
    # The reader's process has no pools yet; those of other tests may live on.
    monkeypatch.setattr(pools, "_pools", WeakValueDictionary())
    with contextlib.ExitStack() as stack, isolate_apps("netstorage"):
        yield lambda path: Page(path, tmp_path, stack).run()


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_page(run_page, path):
    run_page(path)


# The runner itself: a page that runs, and pages that must not pass.

GOOD = """
# Page

<!-- run: setup
answer = 42
-->

```python
from django.core.files.base import ContentFile
from netstorage import SFTPStorage, WebDAVStorage

assert answer == 42
for storage in (
    SFTPStorage(host="nas.example.com", host_key="SHA256:x", location="/volume1/media"),
    WebDAVStorage(url="https://nas.example.com/dav/", token="x"),
):
    assert storage.save("a.txt", ContentFile(b"a")) == "a.txt"
```

1. Settings:

   <!-- run: settings -->
   ```python
   NAS = {"host": "nas.example.com", "password": missing, "location": "/volume1/media"}
   NETSTORAGE_WEBDAV = {"url": "https://other.example.com/"}
   STORAGES = {
       "default": {"BACKEND": "netstorage.SFTPStorage", "OPTIONS": {**NAS, "base_url": "/m/"}},
       "same": {"BACKEND": "netstorage.SFTPStorage", "OPTIONS": NAS},
       "elsewhere": {"BACKEND": "django.core.files.storage.InMemoryStorage"},
   }
   ```

<!-- run: module mysite.storages -->
```python
class Mine(SFTPStorage):
    pass
```

<!-- run: settings -->
```python
STORAGES["mine"] = {"BACKEND": "mysite.storages.Mine", "OPTIONS": NAS}
```

```pycon
>>> from django.core.files.storage import storages
>>> type(storages["mine"]) is Mine
True
>>> storages["default"].save("b.txt", ContentFile(b"b"))
'b.txt'
>>> storages["same"].exists("a.txt"), WebDAVStorage().exists("a.txt")
(True, False)
>>> storages["same"].open("no.txt").read()
Traceback (most recent call last):
FileNotFoundError: ...
```

<!-- run: pytest -->
```python
def test_it():
    assert True
```

<!-- run: no, it would delete the reader's disk -->
```python
raise SystemExit
```

```python
from django.db import models

class Scan(models.Model):
    file = models.FileField()
```

<!-- run: setup
create_table(Scan)
assert Scan.objects.create(file="x").pk
-->

```text
>>> not ours
```
"""


def test_runner(run_page, tmp_path):
    (tmp_path / "page.md").write_text(GOOD)
    run_page(tmp_path / "page.md")


MISSPELT = "STORAGES = {'x': {'BACKEND': 'netstorage.SFTPStorage', 'OPTIONS': {'hots': 'x'}}}"


@pytest.mark.parametrize(
    ("page", "why"),
    [
        ("```python\nassert 1 == 2, 'wrong'\n```", "wrong"),
        ("```python\n# nothing\n```", "without code"),
        ("```python\ndef f(): ...\n```", "used nowhere"),
        ("```pycon\n1\n```", "no >>>"),
        ("```pycon\n>>> 1\n2\n```", "Got:\n      1"),
        ("```py\n1\n```", "write ```python"),
        ("```{code-block} python\n1\n```", "write ```python"),
        ("<!-- run: no -->\n```python\n1/0\n```", "but why"),
        ("<!-- run: fast -->\n```python\n1\n```", "what is"),
        ("<!-- run: python -->\ntext\n```python\n1\n```", "has no block"),
        ("```python\n1\n```\n<!-- run: python -->\n", "has no block"),
        ("<!-- run: no, shell -->\n```bash\nls\n```", "not Python"),
        ("<!-- run: settings -->\n```python\nx = 1\n```", "capitals"),
        ("<!-- run: pytest -->\n```python\ndef test_x(): assert 0\n```", "1 failed"),
        ("<!-- run: pytest -->\n```python\nx = 1\n```", "no tests ran"),
        ("<!-- run: settings -->\n```python\n" + MISSPELT + "\n```", "hots"),
    ],
)
def test_runner_refuses(run_page, tmp_path, page, why):
    (tmp_path / "page.md").write_text(page)
    with pytest.raises((AssertionError, ImproperlyConfigured), match=re.escape(why)):
        run_page(tmp_path / "page.md")
