"""Files for a browser to show, made when they are needed."""

from __future__ import annotations

import io
import struct

from PIL import Image, ImageDraw

SECONDS = 100
SCENE = 5
"""A picture stays for so many seconds."""
WIDTH, HEIGHT = 640, 360
ORANGE = (255, 128, 0)


def shade(second: int) -> int:
    """How bright the video's upper left corner is in that second."""
    return 28 + 2 * (second - second % SCENE)


def frame(second: int) -> Image.Image:
    """A picture that tells its time, to an eye and to a program, and does not compress."""
    picture = Image.effect_noise((WIDTH, HEIGHT), 120).convert("RGB")
    draw = ImageDraw.Draw(picture)
    draw.rectangle((0, 0, 159, 159), fill=(shade(second),) * 3)
    draw.text((190, 60), str(second), fill="white", font_size=220, stroke_width=9, stroke_fill=0)
    return picture


def encoded(picture: Image.Image, kind: str, **options: int) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def element(tag: int, *content: bytes) -> bytes:
    """One element of WebM: a tag, the length in eight bytes, the content."""
    body = b"".join(content)
    head = tag.to_bytes((tag.bit_length() + 7) // 8, "big")
    return head + struct.pack(">Q", 1 << 56 | len(body)) + body


def number(tag: int, value: int) -> bytes:
    return element(tag, struct.pack(">Q", value))


def video() -> bytes:
    """A WebM of one frame per second, about 40 MB.

    A lossy WebP is a VP8 key frame in a wrapper of 20 bytes, so Pillow encodes all that is needed.
    """
    scenes = [
        encoded(frame(second), "WEBP", quality=100, method=0)[20:]
        for second in range(0, SECONDS, SCENE)
    ]
    clusters = [
        # Cluster: Timecode, and SimpleBlock: track 1, at the cluster's time, a key frame.
        element(
            0x1F43B675,
            number(0xE7, second * 1000),
            element(0xA3, b"\x81\0\0\x80", scenes[second // SCENE]),
        )
        for second in range(SECONDS)
    ]
    kind = element(0x1A45DFA3, element(0x4282, b"webm"), number(0x4287, 4), number(0x4285, 2))
    # Info: TimecodeScale (milliseconds), Duration.
    duration = element(0x4489, struct.pack(">d", SECONDS * 1000))
    info = element(0x1549A966, number(0x2AD7B1, 1_000_000), duration)
    size = element(0xE0, number(0xB0, WIDTH), number(0xBA, HEIGHT))
    entry = element(
        0xAE, number(0xD7, 1), number(0x73C5, 1), number(0x83, 1), element(0x86, b"V_VP8"), size
    )
    tracks = element(0x1654AE6B, entry)

    def cues(first: int) -> bytes:
        """Where each second is, counted from the Segment's content."""
        points, at = [], first
        for second, cluster in enumerate(clusters):
            place = element(0xB7, number(0xF7, 1), number(0xF1, at))
            points.append(element(0xBB, number(0xB3, second * 1000), place))
            at += len(cluster)
        return element(0x1C53BB6B, *points)

    head = info + tracks
    index = cues(len(head) + len(cues(0)))
    return kind + element(0x18538067, head, index, *clusters)


def image() -> bytes:
    return encoded(frame(0), "PNG")


def pdf() -> bytes:
    """One page, all orange."""
    return encoded(Image.new("RGB", (WIDTH, HEIGHT), ORANGE), "PDF")
