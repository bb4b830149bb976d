"""Celery by way of a folder: no broker has to run."""

from __future__ import annotations

from pathlib import Path

from celery import Celery


def make_app(folder: Path) -> Celery:
    """Make the application of workers and of those who send them tasks."""
    return Celery(
        "tasks",
        broker="filesystem://",
        backend=f"file://{folder}/results",
        broker_transport_options={
            "data_folder_in": f"{folder}/queue",
            "data_folder_out": f"{folder}/sent",
            "control_folder": f"{folder}/control",
        },
    )
