-- Who may come into the console, with what they are known by: a slow hash of a password, or an OpenID provider's name.
CREATE TABLE people (
    number INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, roles TEXT NOT NULL, password TEXT,
    issuer TEXT, subject TEXT, made_at REAL NOT NULL, disabled_at REAL,
    UNIQUE (issuer, subject)
);
-- Who is in: of the secret that the browser holds, the digest alone.
CREATE TABLE sessions (
    digest TEXT NOT NULL PRIMARY KEY, name TEXT NOT NULL, how TEXT NOT NULL, address TEXT NOT NULL,
    began_at REAL NOT NULL, seen_at REAL NOT NULL
) WITHOUT ROWID;
CREATE INDEX sessions_by_name ON sessions (name);
-- How often a name or an address was refused of late, and until when it has to wait.
CREATE TABLE attempts (
    whose TEXT NOT NULL PRIMARY KEY, failures INTEGER NOT NULL, at REAL NOT NULL, until REAL NOT NULL
) WITHOUT ROWID;
-- Who came, was refused, left, did something, or was given or denied something: when, and from where.
CREATE TABLE visits (
    number INTEGER PRIMARY KEY, at REAL NOT NULL, what TEXT NOT NULL, name TEXT NOT NULL, how TEXT NOT NULL,
    address TEXT NOT NULL, detail TEXT NOT NULL
);
CREATE INDEX visits_by_name ON visits (name, what, address, at);
