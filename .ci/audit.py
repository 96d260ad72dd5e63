"""Known weaknesses of the packages that are installed beside this Python, as the first service that answers knows them.

The OSV database is asked first, then the package index: its page of a version, and where it serves none, its page of
the newest version, which says something of an installed one only when that is the newest. A service that answers for
no package at all did not answer. Exit code 1 where a weakness is known that ``.ci/advisories`` does not list, 77 where
no service answered.
"""

from __future__ import annotations

import sys
from pathlib import Path

import requests
from pip_audit._dependency_source import PipSource
from pip_audit._service import Dependency, OsvService, PyPIService, ServiceError, VulnerabilityResult

NOT_RUN = 77
SECONDS = 20  # for each answer
Findings = dict[Dependency, list[VulnerabilityResult]]


class Index(PyPIService):
    """The package index, also one that has pages of packages and none of their versions."""

    def __init__(self) -> None:
        super().__init__(timeout=SECONDS)
        self._of_versions = self.session.get
        self.session.get = self._page

    def _page(self, url: str, timeout: int | None = None) -> requests.Response:
        page: requests.Response = self._of_versions(url, timeout=timeout)
        if page.status_code != requests.codes.not_found:
            return page
        package, version, _ = url.rsplit("/", 2)
        newest: requests.Response = self._of_versions(f"{package}/json", timeout=timeout)
        return newest if newest.ok and newest.json()["info"]["version"] == version else page


def main() -> None:
    """The command: ``audit.py ADVISORIES``."""
    known = {line.split()[0] for line in Path(sys.argv[1]).read_text(encoding="utf-8").splitlines() if line[:1] != "#"}
    installed = [d for d in PipSource(skip_editable=True).collect() if not d.is_skipped()]
    for name, service in (("OSV", OsvService(timeout=SECONDS)), ("the package index", Index())):
        try:
            found = dict(service.query_all(iter(installed)))
        except (ServiceError, requests.RequestException) as err:
            print(f"{name} gave no answer: {type(err).__name__}")
            continue
        unknown = sorted(d.name for d in found if d.is_skipped())
        if len(unknown) == len(found):
            print(f"{name} knows none of {len(found)} packages")
            continue
        print(
            f"{name} answered for {len(found) - len(unknown)} of {len(found)} packages; not for: {', '.join(unknown)}"
        )
        sys.exit(told(found, known))
    sys.exit(NOT_RUN)


def told(found: Findings, known: set[str]) -> int:
    """Print what is not known yet; 1 where there was any."""
    fresh = {
        f"{dependency.name} {dependency.version}: {weakness.id}, "
        f"mended in {', '.join(map(str, weakness.fix_versions)) or 'no version yet'}"
        for dependency, weaknesses in found.items()
        for weakness in weaknesses
        if not weakness.has_any_id(known)
    }
    for line in sorted(fresh):
        print(line)
    return int(bool(fresh))


if __name__ == "__main__":
    main()
