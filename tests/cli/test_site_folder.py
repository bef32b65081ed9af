"""Folders of a site: what is written, what of an earlier site is removed, and what is never touched."""

import hashlib
import json

import pytest

from robench.cli.site_folder import MANIFEST, SCHEMA, write_files, write_site
from robench.errors import UserError

from .conftest import files


@pytest.fixture
def site(tmp_path):
    return tmp_path / "site"


def listed(site):
    return {name for name, _ in json.loads((site / MANIFEST).read_text())["files"]}


def write_manifest(site, *names, content=b"x"):
    site.mkdir(exist_ok=True)
    digest = hashlib.sha256(content).hexdigest()
    (site / MANIFEST).write_text(json.dumps({"schema": SCHEMA, "files": [[name, digest] for name in names]}))


def test_files_of_an_earlier_site_are_removed_with_the_folders_they_leave_empty(site):
    write_site(site, {"index.html": b"1", "models/a/one.html": b"1", "models/b/two.html": b"2"})
    write_site(site, {"index.html": b"2", "models/b/two.html": b"2"})
    assert files(site).keys() == {"index.html", "models/b/two.html", MANIFEST}
    assert not (site / "models" / "a").exists()
    assert listed(site) == {"index.html", "models/b/two.html"}


def test_equal_sites_have_equal_folders_whatever_was_there_before(site, tmp_path):
    write_site(site, {"a.html": b"1", "old.html": b"1"})
    write_site(site, {"a.html": b"1"})
    write_site(tmp_path / "new", {"a.html": b"1"})
    assert files(site) == files(tmp_path / "new")


def test_files_of_others_stay(site):
    write_site(site, {"a.html": b"1", "x/b.html": b"1"})
    (site / "CNAME").write_text("mine")
    (site / "x" / "mine.txt").write_text("mine")
    write_site(site, {"a.html": b"1"})
    assert files(site).keys() == {"a.html", "CNAME", "x/mine.txt", MANIFEST}


def test_a_file_that_was_changed_since_stays(site):
    write_site(site, {"a.html": b"1", "b.html": b"1"})
    (site / "b.html").write_text("mine")
    write_site(site, {"a.html": b"1"})
    assert (site / "b.html").read_text() == "mine"


def test_a_file_that_does_not_change_is_not_written_again(site):
    write_site(site, {"a.html": b"1"})
    before = (site / "a.html").stat()
    write_site(site, {"a.html": b"1"})
    assert (site / "a.html").stat().st_ino == before.st_ino


@pytest.mark.parametrize(
    "name",
    ["../victim.txt", "/etc/hostname", "x/../../victim.txt", "..", ".", "", "x//y", ".git/config", "a\\b", "a\n"],
)
def test_a_manifest_that_leads_out_of_the_folder_is_refused(site, tmp_path, name):
    (tmp_path / "victim.txt").write_bytes(b"x")
    write_manifest(site, name)
    with pytest.raises(UserError, match="not a manifest"):
        write_site(site, {"a.html": b"1"})
    assert (tmp_path / "victim.txt").exists()
    assert files(site).keys() == {MANIFEST}


@pytest.mark.parametrize("text", ["", "[]", '{"schema": "other/1", "files": []}', '{"files": [["a", 1]]}', "\ud800"])
def test_a_file_that_is_no_manifest_is_refused(site, text):
    site.mkdir()
    (site / MANIFEST).write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(UserError, match="not a manifest"):
        write_site(site, {"a.html": b"1"})
    assert not (site / "a.html").exists()


def test_no_file_is_removed_or_written_through_a_link(site, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "victim.txt").write_bytes(b"x")
    write_manifest(site, "models/victim.txt", "link.html")
    (site / "models").symlink_to(tmp_path / "elsewhere")
    (site / "link.html").symlink_to(tmp_path / "elsewhere" / "victim.txt")
    write_site(site, {"a.html": b"1"})
    assert (tmp_path / "elsewhere" / "victim.txt").exists()
    assert (site / "link.html").is_symlink()
    with pytest.raises(UserError, match="behind a link"):
        write_site(site, {"models/new.html": b"1"})
    assert not (tmp_path / "elsewhere" / "new.html").exists()


def test_a_link_in_place_of_a_file_is_replaced_and_not_followed(site, tmp_path):
    site.mkdir()
    (tmp_path / "victim.txt").write_text("mine")
    (site / "a.html").symlink_to(tmp_path / "victim.txt")
    write_files(site, {"a.html": b"1"})
    assert (tmp_path / "victim.txt").read_text() == "mine"
    assert not (site / "a.html").is_symlink()


def test_a_link_in_place_of_the_manifest_is_refused(site, tmp_path):
    write_manifest(tmp_path / "other", "a.html")
    site.mkdir()
    (site / MANIFEST).symlink_to(tmp_path / "other" / MANIFEST)
    with pytest.raises(UserError, match="not a manifest"):
        write_site(site, {"b.html": b"1"})


def test_after_a_crash_the_manifest_lists_the_files_of_both_sites(site, monkeypatch):
    write_site(site, {"a.html": b"1"})
    monkeypatch.setattr("robench.cli.site_folder._remove", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_site(site, {"b.html": b"1"})
    assert listed(site) == {"a.html", "b.html"}
    monkeypatch.undo()
    write_site(site, {"c.html": b"1"})
    assert files(site).keys() == {"c.html", MANIFEST}
