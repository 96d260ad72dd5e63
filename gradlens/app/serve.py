"""The server: nothing from elsewhere, nothing to elsewhere, and an end by Ctrl-C."""

from __future__ import annotations

import os
import signal
import tempfile
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradlens.app.settings import Settings
from gradlens.errors import GradlensError, InstallationError
from gradlens.runtime import Runtime

if TYPE_CHECKING:
    import gradio as gr

    from gradlens.app.service import Service

CSS = Path(__file__).with_name("templates") / "app.css"


def import_gradio(offline: bool) -> None:
    """Import Gradio, without telemetry and without its remarks for programmers.

    Args:
        offline: keep the hub's client, which Gradio brings, off the network as well.

    Raises:
        InstallationError: it is not installed, or too old.
    """
    # read by Gradio and the hub's client when they are imported
    os.environ.update(GRADIO_ANALYTICS_ENABLED="False", GRADIO_SSR_MODE="false", HF_HUB_DISABLE_TELEMETRY="1")
    if offline:
        os.environ["HF_HUB_OFFLINE"] = "1"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecations inside Gradio and its own libraries
            import gradio
    except ImportError as err:
        raise InstallationError(f'gradlens app needs Gradio, but: {err}; run: pip install "gradlens[app]"') from err
    if int(gradio.__version__.split(".")[0]) < 6:
        raise InstallationError(
            f"gradlens app needs Gradio 6 or newer (older ones fetch fonts from elsewhere), got {gradio.__version__}; "
            'run: pip install --upgrade "gradlens[app]"'
        )


@contextmanager
def _page(settings: Settings, runtime: Runtime) -> Iterator[tuple[gr.Blocks, Service]]:
    """The page and what is behind it, while the block lasts; uploads go with it."""
    import_gradio(runtime.offline or not any(":" in name for name in settings.models))
    from gradlens.app.pages import build
    from gradlens.app.service import Service

    service = Service(settings, runtime)
    with tempfile.TemporaryDirectory(prefix="gradlens-app-") as place:
        os.environ["GRADIO_TEMP_DIR"] = place
        yield build(service, service.examples(), Path(place)), service


@contextmanager
def _told_to_end() -> Iterator[threading.Event]:
    """While the block lasts, SIGTERM sets the event instead of killing the process: containers and services end
    servers with it, and uploads must go then, too.
    """
    told = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda *_: told.set())
    try:
        yield told
    finally:
        signal.signal(signal.SIGTERM, before)


def options(settings: Settings) -> dict[str, Any]:
    """How Gradio's ``launch`` is called: never shared, no footer's links, no history, nothing rendered by a second
    server; the check that requests come from the page itself (``strict_cors``) stays on.
    """
    return {
        "share": False,
        "quiet": True,
        "footer_links": [],
        "run_history": False,
        "enable_monitoring": False,
        "ssr_mode": False,
        "pwa": False,
        "mcp_server": False,
        "strict_cors": True,
        "show_error": True,
        "max_file_size": settings.max_upload,
        "theme": _theme(),
        "css_paths": [CSS],
    }


LOCAL = ("127.0.0.1", "localhost", "::1")


def called_by_name(host: str) -> dict[str, Any]:
    """What ``launch`` is given besides, so that an address of this machine alone answers under its own names only.

    A page elsewhere may give its own name this machine's address after it was loaded ("DNS rebinding"): its requests
    are then of one origin for the browser, and only the name in them tells them apart.
    """
    if host not in LOCAL:
        return {}
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    return {"app_kwargs": {"middleware": [Middleware(TrustedHostMiddleware, allowed_hosts=[*LOCAL, "[::1]"])]}}


def serve(settings: Settings, runtime: Runtime, host: str = "127.0.0.1", port: int | None = None) -> None:
    """Serve the page until somebody interrupts, or a SIGTERM comes.

    Args:
        settings: what was asked for.
        runtime: device, precision.
        host: address to listen on.
        port: the first free one from 7860 if ``None``.

    Raises:
        GradlensError: the port or the address cannot be had.
        KeyboardInterrupt: somebody pressed Ctrl-C.
    """
    with _told_to_end() as told, _page(settings, runtime) as (page, service):
        try:
            _, url, _ = page.launch(
                server_name=host, server_port=port, prevent_thread_lock=True, inbrowser=False,
                **options(settings), **called_by_name(host),
            )  # fmt: skip
        except OSError as err:
            wanted = f"port {port} of {host}" if port else f"a free port of {host} from 7860"
            # of a port that is taken Gradio says what programmers can set
            why = "it is taken" if "empty port" in str(err) else f"the system refused: {err}"
            raise GradlensError(f"expected {wanted}, but {why}; choose another --port") from None
        try:
            print(url, flush=True)
            runtime.say("Ctrl-C ends it.")
            if host not in LOCAL:
                runtime.say("Everybody who can reach this address can use the page; it has no password.")
            with service.preparing():
                told.wait()
        finally:
            page.close(verbose=False)


def serve_space(folder: Path) -> None:
    """Serve an exported folder, at the address that the place it runs at gives (``GRADIO_SERVER_NAME`` and ``_PORT``).

    Args:
        folder: what ``gradlens app --export`` wrote.
    """
    from gradlens.app.export import space_settings

    settings = space_settings(folder)
    with _told_to_end() as told, _page(settings, Runtime(offline=True)) as (page, service):
        _, url, _ = page.launch(prevent_thread_lock=True, **options(settings))
        print(url, flush=True)
        try:
            with service.preparing(), suppress(KeyboardInterrupt):
                told.wait()
        finally:
            page.close(verbose=False)


def _theme() -> Any:
    import gradio as gr

    accent = gr.themes.Color(
        "#eef5fb", "#d7e6f3", "#b3d0e8", "#86b5da", "#4f93c7", "#0a5a9c", "#0a5a9c", "#084a81", "#063a66", "#052d4f",
        "#041f38",
    )  # fmt: skip
    sans = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "Noto Sans", "DejaVu Sans"]
    mono = ["ui-monospace", "SF Mono", "Cascadia Mono", "DejaVu Sans Mono", "monospace"]
    return gr.themes.Base(
        primary_hue=accent, secondary_hue=accent, neutral_hue="stone", radius_size="sm", text_size="md",
        font=[gr.themes.Font(name) for name in (*sans, "sans-serif")],
        font_mono=[gr.themes.Font(name) for name in mono],
    )  # fmt: skip
