"""``make release``: everything that a release has, into a directory.

The same commit gives the same bytes, as long as the base and Debian's packages are the same: times are those
of the commit, and archives have their members in order. docs/release.md says what there is, and how a release
is made.
"""
