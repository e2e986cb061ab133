"""Pictures in few bytes, each dot as it was."""

import io

from PIL import Image


def light(drawn: Image.Image) -> bytes:
    """A picture as lossless WebP: about half of what it takes as PNG, and as sharp."""
    content = io.BytesIO()
    drawn.save(content, "WEBP", lossless=True, exact=True, method=3)
    return content.getvalue()
