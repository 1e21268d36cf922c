"""The BentoML service that answers with the champion."""
