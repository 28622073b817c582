#!/usr/bin/env python3
"""mdBook preprocessor: links from docs/ to other files of the repository become addresses of the repository.

In the repository such links are relative (`../../recipes/demo.yml`), so they work on the forge. On the site these
files do not exist; their address is made from `git-repository-url` in docs/book.toml.
"""

import json
import posixpath
import re
import sys

LINK = re.compile(r"(\]\()([^)\s#]+)")


def rewritten(text: str, page: str, repository: str) -> str:
    """The text of `page`, a path below docs/, with links out of docs/ replaced."""

    def replace(match: re.Match) -> str:
        target = match[2]
        if re.match(r"[a-z]+:", target):
            return match[0]
        path = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page), target))
        return match[0] if path.startswith("docs/") else f"{match[1]}{repository}/blob/main/{path}"

    return LINK.sub(replace, text)


def visit(items: list, repository: str) -> None:
    for item in items:
        if chapter := isinstance(item, dict) and item.get("Chapter"):
            if chapter.get("path"):
                chapter["content"] = rewritten(chapter["content"], chapter["path"], repository)
            visit(chapter["sub_items"], repository)


def main() -> None:
    if sys.argv[1:2] == ["supports"]:
        return
    context, book = json.load(sys.stdin)
    repository = context["config"]["output"]["html"]["git-repository-url"]
    visit(book.get("items") or book.get("sections"), repository)
    json.dump(book, sys.stdout)


if __name__ == "__main__":
    main()
