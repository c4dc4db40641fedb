"""Fetch one file of a release from the package index that pip is configured to use.

The file is found as pip would find it (the Simple API of PEP 503 and PEP 691, extra indexes, ``find-links`` folders,
the proxy and the certificates of pip's configuration), but nothing is installed and no code of the package runs:
``pip download`` would execute the ``setup.py`` of a source distribution, and cannot resume an interrupted download.
"""

import hashlib
import json
import netrc
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import SplitResult, unquote, urljoin, urlsplit
from urllib.request import url2pathname

import httpx

from jola.errors import InputError

Progress = Callable[[str, int, int], None]
"""Called with (action, bytes done, bytes in total); a total of 0 is unknown."""

ATTEMPTS = 4
RETRY_PAUSE = 0.5
"""Seconds before the second attempt of an interrupted download; doubled before each further attempt."""

SIMPLE_JSON = "application/vnd.pypi.simple.v1+json"
ACCEPT = f"{SIMPLE_JSON}, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.01"

# Uses pip's own option parser, so that configuration files, environment variables and their precedence are those of
# pip. Prints null if the interpreter has no pip.
_ASK_PIP = """
import json, sys
try:
    from pip._internal.commands import create_command
except ImportError:
    print("null")
    sys.exit()
options, _ = create_command("download").parser.parse_args([])
names = "index_url extra_index_urls find_links no_index cert client_cert proxy trusted_hosts timeout".split()
print(json.dumps({name: getattr(options, name, None) for name in names}))
"""


@dataclass(frozen=True)
class Release:
    """One file of a release; ``size`` in bytes and ``sha256`` in hexadecimal digits are verified."""

    project: str
    version: str
    filename: str
    size: int
    sha256: str


@dataclass(frozen=True)
class PipSettings:
    """The part of pip's configuration that defines where packages come from; ``timeout`` is in seconds."""

    indexes: tuple[str, ...]
    find_links: tuple[str, ...] = ()
    cert: str | None = None
    client_cert: str | None = None
    proxy: str | None = None
    trusted_hosts: tuple[str, ...] = ()
    timeout: float = 15.0

    @classmethod
    def read(cls) -> "PipSettings":
        """Read the settings of this interpreter's pip.

        Raises:
            InputError: pip is not installed, or its configuration is not valid.
        """
        asked = subprocess.run(
            [sys.executable, "-c", _ASK_PIP],
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        try:
            found = json.loads(asked.stdout)
        except ValueError:
            reason = (asked.stderr.strip() or "it printed nothing").splitlines()[-1].rstrip(".")
            raise InputError(f"pip did not report which package index to use: {reason}.") from None
        if found is None:
            raise InputError(
                "pip is needed to find the package index and this Python has none; "
                f"run `{sys.executable} -m ensurepip` (or `uv pip install pip`) and try again."
            )
        indexes = [] if found["no_index"] else [found["index_url"], *(found["extra_index_urls"] or [])]
        proxy = found["proxy"] or None
        return cls(
            indexes=tuple(url for url in indexes if url),
            find_links=tuple(found["find_links"] or ()),
            # pip reads these variables through its bundled HTTP library.
            cert=found["cert"] or os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE"),
            client_cert=found["client_cert"],
            proxy=f"http://{proxy}" if proxy and "://" not in proxy else proxy,
            trusted_hosts=tuple(found["trusted_hosts"] or ()),
            timeout=float(found["timeout"] or 15.0),
        )


def fetch(release: Release, folder: Path, progress: Progress | None = None) -> Path:
    """Return the path of a release's file: in ``folder``, or in a ``find-links`` folder that already has it.

    An interrupted download stays in ``folder`` as ``<filename>.part``, and the next call resumes it if the server
    supports that. Only one process at a time may fetch a file into a folder; the caller holds a lock.

    Raises:
        InputError: The index cannot be reached, does not have the file, or has another file under its name.
        OSError: The folder cannot be written.
    """
    path = folder / release.filename
    if path.is_file() and _is_right(path, release):
        return path
    settings = PipSettings.read()
    part = folder / f"{release.filename}.part"
    failures: list[str] = []
    with _client(settings) as client:
        for place, is_index in (
            *((place, False) for place in settings.find_links),
            *((place, True) for place in settings.indexes),
        ):
            try:
                found = _find(release, place, is_index, client)
                if isinstance(found, Path):
                    if _is_right(found, release):
                        return found
                    raise _WrongFile(f"{found} has the same name but different contents")
                if found is not None:
                    _download(found, release, part, client, progress)
                    os.replace(part, path)
                    return path
            except httpx.HTTPStatusError as error:
                # A mirror may not have the project; the next place may.
                failures.append(f"{_host(place)} answered {error.response.status_code}")
            except (httpx.ReadError, httpx.ReadTimeout, httpx.RemoteProtocolError) as error:
                failures.append(f"{_host(place)} interrupted the download ({_reason(error)})")
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                failures.append(f"{_host(place)} cannot be reached ({_reason(error)})")
            except _WrongFile as error:
                failures.append(str(error))
    raise InputError(_failure(release, folder, part, failures))


class _WrongFile(Exception):
    """A place has another file under the name of the release's file."""


def _failure(release: Release, folder: Path, part: Path, failures: list[str]) -> str:
    reasons = ", ".join(failures) or "no package index that pip is set up to use has it"
    done = part.stat().st_size if part.is_file() else 0
    if done:
        kept = f"{done / 1e6:.1f} of {release.size / 1e6:.1f} MB are already downloaded, run it again to resume"
    else:
        kept = f"check the network and pip's settings and run it again, or put the file into {folder}"
    return f"{release.filename} could not be fetched: {reasons}; {kept}."


def _client(settings: PipSettings) -> httpx.Client:
    # Like pip, use both the certificates of httpx and those of the system.
    context = httpx.create_ssl_context()
    context.load_default_certs()
    try:
        if settings.cert and os.path.isdir(settings.cert):
            context.load_verify_locations(capath=settings.cert)
        elif settings.cert:
            context.load_verify_locations(cafile=settings.cert)
        if settings.client_cert:
            context.load_cert_chain(settings.client_cert)
    except OSError as error:
        raise InputError(f"The certificates named in pip's settings cannot be read: {_reason(error)}.") from None
    # Hosts that pip trusts without a certificate by the user's settings; the hash is verified in any case.
    unchecked = httpx.create_ssl_context(verify=False)
    try:
        return httpx.Client(
            verify=context,
            proxy=settings.proxy,
            mounts={
                f"https://{host}": httpx.HTTPTransport(verify=unchecked, proxy=settings.proxy)
                for host in settings.trusted_hosts
            },
            timeout=settings.timeout,
            follow_redirects=True,
            headers={"User-Agent": "jola-workbench"},
        )
    except (ImportError, ValueError) as error:
        # A SOCKS proxy without its package, or a proxy that is not a URL.
        raise InputError(f"The proxy of pip's settings or of the system cannot be used: {_reason(error)}.") from None


def _find(release: Release, place: str, is_index: bool, client: httpx.Client) -> Path | str | None:
    """Return where a place (an index, a page of links or a folder) has the file: a path, a URL, or None."""
    url = place
    if is_index:
        project = re.sub(r"[-_.]+", "-", release.project).lower()
        url = f"{place.rstrip('/')}/{project}/"
    split = urlsplit(url)
    if split.scheme not in ("http", "https"):
        local = Path(url2pathname(split.path)) if split.scheme == "file" else Path(url).expanduser()
        found = local / release.filename
        return found if found.is_file() else None
    response = client.get(url, headers={"Accept": ACCEPT}, auth=_login(url))
    response.raise_for_status()
    for name, link in _links(response):
        if name == release.filename:
            return _with_login(urljoin(str(response.url), link), split)
    return None


def _links(response: httpx.Response) -> Iterator[tuple[str, str]]:
    """Yield the name and link of each file that a page of the Simple API lists, as JSON or HTML."""
    if SIMPLE_JSON in response.headers.get("Content-Type", ""):
        try:
            yield from ((file["filename"], file["url"]) for file in response.json()["files"])
        except (ValueError, KeyError, TypeError):
            raise _WrongFile(f"{response.url.host} sent an invalid list of files") from None
    else:
        page = _LinkPage()
        page.feed(response.text)
        for link in page.links:
            yield unquote(urlsplit(link).path.rpartition("/")[2]), urljoin(page.base, link)


class _LinkPage(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.base = ""
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        link = dict(attrs).get("href")
        if tag == "base" and link:
            self.base = link
        elif tag == "a" and link:
            self.links.append(link)


def _login(url: str) -> httpx.Auth:
    """Return the login in a URL, else the one for its host in the user's netrc file."""
    split = urlsplit(url)
    if split.username:
        return httpx.BasicAuth(unquote(split.username), unquote(split.password or ""))
    try:
        return httpx.NetRCAuth(os.environ.get("NETRC"))
    except (OSError, netrc.NetrcParseError):
        return httpx.Auth()


def _with_login(url: str, index: SplitResult) -> str:
    """Copy the login in the URL of an index to the URL of a file, but only if both are on the same host."""
    split = urlsplit(url)
    if "@" in index.netloc and "@" not in split.netloc and split.netloc == index.netloc.rpartition("@")[2]:
        split = split._replace(netloc=index.netloc)
    return split._replace(fragment="").geturl()


def _download(url: str, release: Release, part: Path, client: httpx.Client, progress: Progress | None) -> None:
    """Complete ``part``, keeping the bytes it already has, until its size and hash are those of the release."""
    for attempt in range(ATTEMPTS):
        try:
            fresh = _download_rest(url, release, part, client, progress)
        except httpx.HTTPStatusError as error:
            if error.response.status_code < 500 or attempt == ATTEMPTS - 1:
                raise
        except httpx.TransportError:
            if attempt == ATTEMPTS - 1:
                raise
        else:
            if _is_right(part, release):
                return
            part.unlink()
            if fresh:
                break
            # The bytes of an earlier attempt were not the beginning of this file: start again.
            continue
        time.sleep(RETRY_PAUSE * 2**attempt)
    raise _WrongFile(f"{_host(url)} sent a file with a wrong size or SHA-256")


def _download_rest(url: str, release: Release, part: Path, client: httpx.Client, progress: Progress | None) -> bool:
    """Fetch the missing bytes of ``part``; return whether the whole file came from this response."""
    done = part.stat().st_size if part.is_file() else 0
    if done == release.size:
        return False
    if done > release.size:
        done = 0
    # "identity": the length and the range count bytes of the file, not of a compressed response.
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={done}-"} if done else {})
    with client.stream("GET", url, headers=headers, auth=_login(url)) as response:
        if response.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
            part.write_bytes(b"")
            return False
        response.raise_for_status()
        goes_on = response.headers.get("Content-Range", "").startswith(f"bytes {done}-")
        if response.status_code != httpx.codes.PARTIAL_CONTENT or not goes_on:
            done = 0
        start = done
        with open(part, "r+b" if start else "wb") as file:
            file.seek(start)
            # In chunks as they arrive: with a fixed size, the last chunk before an interruption would be lost.
            for chunk in response.iter_raw():
                file.write(chunk)
                done += len(chunk)
                if done > release.size:
                    break
                if progress is not None:
                    progress("fetching", done, release.size)
    return start == 0


def _is_right(path: Path, release: Release) -> bool:
    if path.stat().st_size != release.size:
        return False
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == release.sha256


def _host(place: str) -> str:
    return urlsplit(place).hostname or place


def _reason(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
