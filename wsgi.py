"""What WSGI servers load: ``gunicorn wsgi:app``."""

import sys

from app import GatewayError, create_app
from openclaw_gunicorn import native_thread

try:
    app = create_app(offload=native_thread())
except GatewayError as error:
    # 4 tells gunicorn that the application cannot be loaded: it stops instead of trying again.
    print(f"openclaw: {error}", file=sys.stderr)
    sys.exit(4)
