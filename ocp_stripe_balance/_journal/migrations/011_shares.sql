-- Which processes call Stripe just now, each until when at the latest: they share one rate limit.
CREATE TABLE shares (
    pace TEXT NOT NULL, owner TEXT NOT NULL, until REAL NOT NULL,
    PRIMARY KEY (pace, owner)
) WITHOUT ROWID;
