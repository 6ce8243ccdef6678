"""Progress is reported; when it cannot be shown, the work continues."""

import logging

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from tasks import progress


@pytest.mark.filterwarnings("ignore:Artifact:FutureWarning")
def test_without_prefects_server_progress_is_only_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(progress, "get_run_logger", lambda: logging.getLogger("run"))
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}), caplog.at_level(logging.INFO, "run"):
        progress.Progress("training", "fine-tuning").report(3, 3, "step 3/3")

    assert "step 3/3" in caplog.text
    assert "Prefect's server cannot show the progress" in caplog.text
