"""The error tree: every failure Vitrine raises on purpose.

    VitrineError
    ├── Permanent                 trying again cannot help
    │   ├── BadConfig             wrong usage, unknown name, value out of bounds      exit 2
    │   ├── SourceMissing         the catalogue's source is absent or empty           exit 2
    │   ├── CatalogInvalid        the source's table breaks its contract
    │   ├── ImageRefused          a picture cannot be decoded; becomes a Reject
    │   ├── TooManyRejects        more bad pictures than the config tolerates
    │   ├── WeightsInvalid        a weights file is absent, altered or of another model
    │   ├── DimensionMismatch     vectors of one width meet an index of another
    │   ├── ShardCorrupt          a stored part does not match its checksum
    │   ├── NotFound              no object, artifact, release or item of that name
    │   ├── AliasConflict         somebody else moved the alias first
    │   └── StoreNotWritable      the store refuses writes
    └── Transient                 trying again may help; the only kind that tasks retry
        ├── StoreUnavailable      the store does not answer
        ├── StoreBusy             somebody works in the store who must not be disturbed
        └── WeightsUnavailable    the weights hub does not answer

A message says what was seen, what was expected, and what to do.
"""


class VitrineError(Exception):
    """Base of every error raised on purpose; `exit_code` is what the command line returns."""

    exit_code = 1


class Permanent(VitrineError):
    """Trying again cannot help."""


class BadConfig(Permanent):
    """Wrong usage or configuration."""

    exit_code = 2


class SourceMissing(Permanent):
    """The catalogue's source is absent, unreadable or empty."""

    exit_code = 2


class CatalogInvalid(Permanent):
    """The source's table breaks its contract (missing column, duplicate id, wrong type)."""


class ImageRefused(Permanent):
    """A picture cannot be decoded; the message is the reason written to the ledger."""


class TooManyRejects(Permanent):
    """More pictures were refused than `ingest.max_reject_fraction` allows."""


class WeightsInvalid(Permanent):
    """A weights file is absent, altered, or belongs to another model."""


class DimensionMismatch(Permanent):
    """Vectors of one width meet an index, head or reducer of another."""


class ShardCorrupt(Permanent):
    """A stored part does not match its checksum or its contract."""


class NotFound(Permanent):
    """No object, artifact, release or item of that name."""


class AliasConflict(Permanent):
    """Somebody else moved the alias first; nothing was changed."""


class StoreNotWritable(Permanent):
    """The store refuses writes."""


class Transient(VitrineError):
    """Trying again may help; tasks retry this kind and no other."""


class StoreUnavailable(Transient):
    """The store does not answer, or answers with a server error."""


class StoreBusy(Transient):
    """Somebody works in the store who must not be disturbed; nothing was changed."""


class WeightsUnavailable(Transient):
    """The weights hub does not answer."""
