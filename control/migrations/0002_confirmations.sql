-- Versions that somebody had to confirm. `state`: pending, confirmed or reverted; at most one of a cluster is pending. `returns_to` is the
-- version whose content comes back unless it is confirmed by `deadline`.

CREATE TABLE confirmations (
    cluster    TEXT   NOT NULL,
    version    BIGINT NOT NULL,
    returns_to BIGINT NOT NULL,
    within     BIGINT NOT NULL,
    deadline   BIGINT NOT NULL,
    state      TEXT   NOT NULL,
    PRIMARY KEY (cluster, version),
    FOREIGN KEY (cluster, version) REFERENCES versions (cluster, version),
    FOREIGN KEY (cluster, returns_to) REFERENCES versions (cluster, version)
);
CREATE UNIQUE INDEX confirmations_pending ON confirmations (cluster) WHERE state = 'pending';

-- What else a request was answered, and what it asked for: the same id for another change is refused.
ALTER TABLE requests ADD COLUMN fingerprint TEXT NOT NULL DEFAULT '';
ALTER TABLE requests ADD COLUMN unchanged BIGINT NOT NULL DEFAULT 0;
