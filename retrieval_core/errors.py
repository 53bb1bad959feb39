"""The errors that Vitrine raises on purpose.

    VitrineError
    ├── Permanent                 a retry cannot help
    │   ├── BadConfig             wrong usage, unknown name, value out of bounds         exit 2
    │   ├── AddressRefused        a web address that may not be fetched                  exit 2
    │   ├── SourceMissing         the catalogue's source is absent or empty              exit 2
    │   ├── CatalogInvalid        the source's table breaks its contract
    │   ├── ImageRefused          a picture cannot be decoded; it is put into quarantine
    │   ├── TooManyRejects        more bad pictures than the config tolerates
    │   ├── WeightsInvalid        a weights file is absent, altered or of another model
    │   ├── DimensionMismatch     vectors of one width meet an index of another
    │   ├── ShardCorrupt          a stored file is not what was sealed, or cannot be read
    │   ├── TooNew                a newer version of Vitrine wrote the store
    │   ├── NeedsMigration        an older version of Vitrine wrote the store, which can only be read until then
    │   ├── NotFound              no object, artifact, release or item of that name
    │   ├── AliasConflict         another process moved the alias first
    │   ├── LeaseLost             the process was suspended or cut off, and another one took over the store
    │   ├── StoreBusy             a run, a vacuum or a repair is using the store
    │   ├── StoreNotWritable      the store refuses writes
    │   └── TargetRefused         the database that a release is exported to refuses what it is sent
    └── Transient                 a retry may help; tasks retry only these
        ├── StoreUnavailable      the store does not answer
        ├── TargetUnavailable     the database that a release is exported to does not answer
        ├── WeightsUnavailable    the weights hub does not answer
        └── ServerUnavailable     Prefect's server does not answer or does not start

A message says what was seen, what was expected, and what to do.
"""


class VitrineError(Exception):
    """Base of every error raised on purpose; `exit_code` is that of the command line."""

    exit_code = 1


class Permanent(VitrineError):
    """A retry cannot help."""


class BadConfig(Permanent):
    """Wrong usage or configuration."""

    exit_code = 2


class AddressRefused(Permanent):
    """A web address that may not be fetched: not on the public internet, or not a plain http(s) address."""

    exit_code = 2


class SourceMissing(Permanent):
    """The catalogue's source is absent, unreadable or empty."""

    exit_code = 2


class CatalogInvalid(Permanent):
    """The source's table breaks its contract: a missing column, a duplicate id, a wrong type."""


class ImageRefused(Permanent):
    """A picture cannot be decoded; the message is the reason that the quarantine ledger gives."""


class TooManyRejects(Permanent):
    """More pictures were refused than `ingest.max_reject_fraction` allows."""


class WeightsInvalid(Permanent):
    """A weights file is absent, altered, or belongs to another model."""


class DimensionMismatch(Permanent):
    """Vectors of one width meet an index, head or reducer of another."""


class ShardCorrupt(Permanent):
    """A stored file does not match its checksum or its contract."""


class TooNew(Permanent):
    """A newer version of Vitrine wrote the store or the document; nothing may be changed in it."""


class NeedsMigration(Permanent):
    """An older version of Vitrine wrote the store; it can be read, and written to after `vitrine migrate`."""


class NotFound(Permanent):
    """There is no object, artifact, release or item of that name."""


class AliasConflict(Permanent):
    """Another process moved the alias first; nothing was changed."""


class LeaseLost(Permanent):
    """Another process took over the store while this one was suspended or cut off from it; it may write no more."""


class StoreBusy(Permanent):
    """A run, a vacuum or a repair is using the store and must not be disturbed; nothing was changed."""


class StoreNotWritable(Permanent):
    """The store refuses writes."""


class TargetRefused(Permanent):
    """The database that a release is exported to refuses what it is sent, or holds something unexpected."""


class Transient(VitrineError):
    """A retry may help; tasks retry this kind and no other."""


class StoreUnavailable(Transient):
    """The store does not answer, or answers with a server error."""


class TargetUnavailable(Transient):
    """The database that a release is exported to does not answer, or is overloaded."""


class WeightsUnavailable(Transient):
    """The weights hub does not answer."""


class ServerUnavailable(Transient):
    """Prefect's server does not answer or does not start."""
