"""Where libraries may look things up on a network: forbidden, tried once, and never waited for.

timm, transformers and torchvision keep what they fetch in caches of their own. Without a network they retry for up to
a minute before they look there; here a network that does not answer at once is treated as none.
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator

from gradlens.errors import CheckpointError, GradlensError

_PATIENCE = 3.0  # seconds that a server has for its first answer


def reachable(url: str) -> bool:
    """Whether anything answers at ``url``, through the proxies that the environment names."""
    answered = threading.Event()

    def ask() -> None:
        try:
            request = urllib.request.Request(url, method="HEAD")  # noqa: S310  (a library's own address)
            urllib.request.urlopen(request, timeout=_PATIENCE).close()  # noqa: S310
        except urllib.error.HTTPError as err:  # a refusal is an answer
            err.close()
        except (OSError, ValueError):
            return
        answered.set()

    # resolving a name knows no time limit, so it is waited for from outside
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(_PATIENCE)
    return answered.is_set()


@contextlib.contextmanager
def network(offline: bool, name: str, url: str = "") -> Iterator[bool]:
    """Inside, libraries look things up on a network, or are kept from it; what goes wrong becomes one line.

    huggingface_hub reads its offline switch when it is imported, so both the variable and the read value are set, and
    set back.

    Args:
        offline: forbid it.
        name: of what is looked for, for the message.
        url: of the server that is about to be asked; one that does not answer is as good as ``offline``.

    Yields:
        Whether the network may be used; where not, caches and local files are all there is.

    Raises:
        CheckpointError: something was not to be had.
    """
    from huggingface_hub import constants

    before, value = os.environ.get("HF_HUB_OFFLINE"), constants.HF_HUB_OFFLINE
    cut_off = not offline and bool(url) and not value and not reachable(url)
    forbidden = offline or cut_off
    if forbidden:
        os.environ["HF_HUB_OFFLINE"] = "1"
        constants.HF_HUB_OFFLINE = True
    try:
        yield not forbidden
    except GradlensError:
        raise
    except Exception as err:  # a dozen kinds, from four libraries
        why = re.sub(r"\s+", " ", str(err)).strip()[:200] or type(err).__name__
        if offline:
            hint = "it is not in the cache; run once without --offline"
        elif cut_off or value:
            hint = "it is not in the cache, and no network answers; fetch it where there is one and copy the cache here"
        else:
            hint = "is the network there?"
        raise CheckpointError(f"{name}: its weights or config cannot be had ({hint}): {why}") from err
    finally:
        constants.HF_HUB_OFFLINE = value
        if forbidden:
            if before is None:
                del os.environ["HF_HUB_OFFLINE"]
            else:
                os.environ["HF_HUB_OFFLINE"] = before


def hub() -> str:
    """The address of the Hugging Face hub, as the environment sets it."""
    from huggingface_hub import constants

    return str(constants.ENDPOINT)
