"""``python -m tests.docs`` writes the parts of the documentation that come from the code."""

from tests.docs import SETTINGS_PAGE, settings_page

SETTINGS_PAGE.write_text(settings_page(SETTINGS_PAGE.read_text()))
