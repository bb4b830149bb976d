"""What a user's project writes, for the type checker to read. Never run."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import IO, Any

from django.core.files.base import ContentFile, File
from django.core.files.storage import Storage

from netstorage import SFTPStorage, WebDAVStorage, pool_stats


def password() -> str:
    """A secret may be fetched when it is needed."""
    return "secret"


bare: SFTPStorage = SFTPStorage()
sftp: SFTPStorage = SFTPStorage(
    host="nas.example.com",
    port=2222,
    username="media",
    password=password,
    key_filename="/etc/site/id_ed25519",
    private_key="-----BEGIN OPENSSH PRIVATE KEY-----",
    passphrase=password,
    known_hosts=Path("/etc/ssh/ssh_known_hosts"),
    host_key=["SHA256:x", "ssh-ed25519 AAAA"],
    location="media",
    base_url="/media/",
    allow_overwrite=True,
    max_memory_size=1 << 20,
    file_permissions_mode=0o640,
    directory_permissions_mode=0o750,
    timeout=30,
    connect_timeout=2.5,
    pool={"max_size": 4, "timeout": 10, "max_idle": 60, "max_lifetime": 3600},
    read_only=True,
)
SFTPStorage(host="nas.example.com", username="media", host_key="SHA256:x")
webdav: WebDAVStorage = WebDAVStorage(
    url="https://cloud.example.com/dav/",
    username="media",
    password="secret",
    auth="digest",
    verify="/etc/ssl/nas.pem",
    headers={"X-Site": "1"},
    proxy="http://proxy.example.com:3128",
    location="media",
    pool={"max_size": 2},
)
WebDAVStorage(url="https://cloud.example.com/dav/", token=password, verify=False)


def use(storage: SFTPStorage | WebDAVStorage, file: File[bytes] | IO[bytes]) -> None:
    """Every public call of Django's Storage API, with the types it promises."""
    as_storage: Storage = storage
    name: str = as_storage.save("a/b.txt", ContentFile(b"x"))
    name = storage.save(None, ContentFile("text", name="a.txt"))
    name = storage.save("a.bin", file, max_length=100)

    with storage.open(name) as reader:
        content: bytes | str = reader.read()
        print(content, reader.size, reader.name)
    with storage.open(name, "wb") as writer:
        writer.write(b"x")

    there: bool = storage.exists(name)
    size: int = storage.size(name)
    url: str = storage.url(name)
    folders, files = storage.listdir("")
    first: str = [*folders, *files][0]
    moments: list[datetime] = [
        storage.get_accessed_time(name),
        storage.get_created_time(name),
        storage.get_modified_time(name),
    ]
    names: list[str] = [
        storage.get_valid_name(name),
        storage.get_alternative_name("a", ".txt"),
        storage.get_available_name(name, max_length=100),
        storage.generate_filename("a/b.txt"),
    ]
    free: bool = storage.is_name_available(name, max_length=100)
    how: tuple[str, Any, dict[str, Any]] = storage.deconstruct()  # type: ignore[attr-defined,unused-ignore]
    storage.delete(name)
    print(there, size, url, first, moments, names, free, how)


with Path("x").open("rb") as plain:
    use(sftp, plain)
    use(webdav, File(plain))

waiting: int = sum(stats.waiting for stats in pool_stats().values())

# A misspelt option and a wrong type are the type checker's to find.
SFTPStorage(hots="nas.example.com")  # type: ignore[call-arg]
WebDAVStorage(url=1)  # type: ignore[arg-type]
