"""``python -m tests.docs`` writes the parts of documents that come from the code, and breaks lines."""

from tests.docs import (
    LINT_PAGE,
    METRICS_PAGE,
    SETTINGS_PAGE,
    documents,
    lint_page,
    metrics_page,
    settings_page,
)
from tests.docs.wrap import wrapped

SETTINGS_PAGE.write_text(settings_page(SETTINGS_PAGE.read_text()))
METRICS_PAGE.write_text(metrics_page(METRICS_PAGE.read_text()))
LINT_PAGE.write_text(lint_page(LINT_PAGE.read_text()))
for document in documents():
    document.write_text(wrapped(document.read_text()))
