"""The uploads in Django's admin."""

from django.contrib import admin

from .models import SFTPUpload, WebDAVUpload

admin.site.site_header = "netstorage demo"
admin.site.register([SFTPUpload, WebDAVUpload])
