-- The store's schema. Written for SQLite and PostgreSQL alike: TEXT, BIGINT, no sequences, no booleans. Times are microseconds since
-- 1970, hashes are lower-case hexadecimal. Everything belongs to a cluster.

CREATE TABLE clusters (
    cluster    TEXT   NOT NULL PRIMARY KEY,
    created_at BIGINT NOT NULL
);

-- Contents, each stored once however many versions hold it.
CREATE TABLE objects (
    cluster TEXT NOT NULL REFERENCES clusters (cluster),
    hash    TEXT NOT NULL,
    kind    TEXT NOT NULL,
    name    TEXT NOT NULL,
    body    TEXT NOT NULL,
    PRIMARY KEY (cluster, hash)
);

CREATE TABLE versions (
    cluster      TEXT   NOT NULL REFERENCES clusters (cluster),
    version      BIGINT NOT NULL,
    api_version  TEXT   NOT NULL,
    content_hash TEXT   NOT NULL,
    author       TEXT   NOT NULL,
    message      TEXT   NOT NULL,
    at           BIGINT NOT NULL,
    rollback_of  BIGINT NOT NULL,
    objects      BIGINT NOT NULL,
    PRIMARY KEY (cluster, version)
);

-- Which object a version holds: from version `since` on, until and including `until` (NULL: to this day). A commit writes rows for what
-- it changes, not for what stays.
CREATE TABLE version_objects (
    cluster TEXT   NOT NULL,
    kind    TEXT   NOT NULL,
    name    TEXT   NOT NULL,
    since   BIGINT NOT NULL,
    until   BIGINT,
    hash    TEXT   NOT NULL,
    PRIMARY KEY (cluster, kind, name, since),
    FOREIGN KEY (cluster, hash) REFERENCES objects (cluster, hash),
    FOREIGN KEY (cluster, since) REFERENCES versions (cluster, version)
);
CREATE UNIQUE INDEX version_objects_current ON version_objects (cluster, kind, name) WHERE until IS NULL;

-- What a request led to, so that its repetition answers the same.
CREATE TABLE requests (
    cluster    TEXT   NOT NULL,
    request_id TEXT   NOT NULL,
    version    BIGINT NOT NULL,
    at         BIGINT NOT NULL,
    PRIMARY KEY (cluster, request_id),
    FOREIGN KEY (cluster, version) REFERENCES versions (cluster, version)
);

CREATE TABLE audit (
    cluster TEXT   NOT NULL REFERENCES clusters (cluster),
    id      BIGINT NOT NULL,
    at      BIGINT NOT NULL,
    author  TEXT   NOT NULL,
    what    TEXT   NOT NULL,
    result  TEXT   NOT NULL,
    PRIMARY KEY (cluster, id)
);

CREATE TABLE tokens (
    secret_hash TEXT   NOT NULL PRIMARY KEY,
    cluster     TEXT   NOT NULL REFERENCES clusters (cluster),
    role        TEXT   NOT NULL,
    name        TEXT   NOT NULL,
    author      TEXT   NOT NULL,
    created_at  BIGINT NOT NULL,
    expires     BIGINT NOT NULL,
    used_at     BIGINT
);

CREATE TABLE certificates (
    serial     TEXT   NOT NULL PRIMARY KEY,
    cluster    TEXT   NOT NULL REFERENCES clusters (cluster),
    role       TEXT   NOT NULL,
    name       TEXT   NOT NULL,
    not_after  BIGINT NOT NULL,
    revoked_at BIGINT
);
CREATE INDEX certificates_by_name ON certificates (cluster, role, name);

-- Nodes that enrolled, whether or not a document names them.
CREATE TABLE nodes (
    cluster     TEXT   NOT NULL REFERENCES clusters (cluster),
    name        TEXT   NOT NULL,
    enrolled_at BIGINT NOT NULL,
    PRIMARY KEY (cluster, name)
);
